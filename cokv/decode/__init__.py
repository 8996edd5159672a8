"""Decoding many rows over one prefill: on storage per row (ragged), on the shared prompt, or as a trie."""
