"""item_encoder."""
