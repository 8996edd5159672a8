"""The head game of an experiment: scores, masking curves, transfer."""
