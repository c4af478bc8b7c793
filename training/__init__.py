"""Offline learning: sample data, item embeddings, examples, models, packaging and measurement."""
