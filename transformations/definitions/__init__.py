"""What a feature repo calls, and what its registry says of it."""
