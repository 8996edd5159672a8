"""Many rows over one prefill -> tokens: each on its own storage, sharing the prompt, or as a trie."""
