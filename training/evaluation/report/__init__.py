"""The page of an evaluation: figures as text, and charts."""
