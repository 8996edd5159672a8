"""Everything that is, names or checks a method: scorer, allocator, policy; the registry; plugins."""
