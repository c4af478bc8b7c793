"""Does it help? Whether activity embeddings improve a ranker that uses them, and which do."""
