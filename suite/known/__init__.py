"""What is known of hub models, GPUs and data sets where none of them is at hand: shapes, measured rates, lengths."""
