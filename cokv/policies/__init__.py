"""What happens to a row's cache while it decodes."""
