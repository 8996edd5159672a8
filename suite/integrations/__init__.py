"""Other evaluation harnesses on compressed caches."""
