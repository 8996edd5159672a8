"""What a model is and what may be looked at in it: loading, its shape, observers of its attention."""
