"""Policies that evict by attention while decoding, one per method."""
