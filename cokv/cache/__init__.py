"""Everything that holds or attends tokens: the ragged cache, its layers and storage, prefill, attention."""
