"""All that touches the offline store."""
