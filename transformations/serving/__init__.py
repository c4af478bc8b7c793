"""What a process that answers requests holds and does."""
