"""Profiles of a run: computed, read from files, shipped."""
