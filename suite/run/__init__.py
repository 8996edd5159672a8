"""An experiment's samples, measurements and files."""
