"""Offline learning: sample data, job embeddings, examples, models, packaging and measurement."""
