"""What runs TensorFlow; nothing else in this package imports it."""
