"""Networks that tests ask before they are trained."""

import keras
import numpy as np


def awake(model, spec, vector_spec) -> keras.Model:
    """A built model whose every weight is random: what starts at zero or one shows too."""
    built = model.build(spec, vector_spec)
    generator = np.random.default_rng(0)
    for weight in built.trainable_variables:
        weight.assign(generator.normal(0.0, 0.5, weight.shape))
    return built
