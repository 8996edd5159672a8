"""KV-cache compression under one budget rule: selections, the ragged cache, the head game. No benchmark is known here."""

__version__ = "0.1.0"
