"""Pure arrays: events, sequences and how they merge; neither Feast nor TensorFlow."""
