"""Activity models by name: the architectures that can be built, trained, searched and packaged.

    architecture("cnn")(filters=64).build(spec, vector_spec)

A new one is one file with a class, and its line below; another package's, see `registry`.
"""

from activity_embeddings.training.models.base import Architecture, Network
from activity_embeddings.training.models.cnn import CNN
from activity_embeddings.training.models.geometric_decay import GeometricDecay
from activity_embeddings.training.models.gru import GRU
from activity_embeddings.training.models.interleaved_decay import InterleavedDecay
from activity_embeddings.training.models.lstm import LSTM
from activity_embeddings.training.models.registry import architecture, known_models, register
from activity_embeddings.training.models.session_decay import SessionDecay
from activity_embeddings.training.models.several_rates_decay import SeveralRatesDecay
from activity_embeddings.training.models.transformer import Transformer
from activity_embeddings.training.models.unweighted_average import UnweightedAverage

__all__ = [
    "CNN",
    "GRU",
    "LSTM",
    "Architecture",
    "GeometricDecay",
    "InterleavedDecay",
    "Network",
    "SessionDecay",
    "SeveralRatesDecay",
    "Transformer",
    "UnweightedAverage",
    "architecture",
    "known_models",
    "register",
]
