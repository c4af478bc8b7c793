"""The commands of `activity-embeddings` that need training code."""
