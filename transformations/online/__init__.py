"""All that touches the online store."""
