"""Other harnesses on compressed caches."""
