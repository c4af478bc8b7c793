"""What a SavedModel has to be, said without TensorFlow."""
