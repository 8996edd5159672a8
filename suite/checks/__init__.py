"""CoKV's claims as checks on one model: each with its question, an interval, and a verdict by a stated rule."""
