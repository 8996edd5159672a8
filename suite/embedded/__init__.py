"""Makes the embedded model; its weights are package data of `cokv.embedded`."""
