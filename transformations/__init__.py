"""Activity embeddings: sequences, item vectors, the model contract and the Feast compute engine.

Dependencies point one way: `feature_repo -> transformations <- training`.
"""
