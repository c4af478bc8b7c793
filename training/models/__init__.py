"""Activity models by name: the architectures that can be built, trained, searched and packaged.

    architecture("cnn")(filters=64).build(spec, item_embedding)

A new one is one file with a class, and its line below; another package's, see `registry`.
"""

from training.models.base import Architecture, Network
from training.models.cnn import CNN
from training.models.geometric_decay import GeometricDecay
from training.models.gru import GRU
from training.models.interleaved_decay import InterleavedDecay
from training.models.lstm import LSTM
from training.models.registry import architecture, known_models, register
from training.models.several_rates_decay import SeveralRatesDecay
from training.models.transformer import Transformer
from training.models.unweighted_average import UnweightedAverage

__all__ = [
    "CNN",
    "GRU",
    "LSTM",
    "Architecture",
    "GeometricDecay",
    "InterleavedDecay",
    "Network",
    "SeveralRatesDecay",
    "Transformer",
    "UnweightedAverage",
    "architecture",
    "known_models",
    "register",
]
