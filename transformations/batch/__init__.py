"""What `feast materialize` runs."""
