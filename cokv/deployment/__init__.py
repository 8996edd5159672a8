"""One line deploys a method: `cokv.compress` gives the cache, `cokv.load_cache` one from a file."""
