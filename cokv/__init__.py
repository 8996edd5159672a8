"""KV-cache compression under one budget rule: selections, the ragged cache, the head game. Knows no benchmark."""

__version__ = "0.1.0"
