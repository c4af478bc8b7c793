"""The models that are published every day. Adding one is one line.

Each line names a TensorFlow SavedModel. What it is, what it was trained on and which job vectors
it expects stand in its manifest; for a SavedModel without one, give them here:

    ActivityModel(
        MODELS / "my_model", name="my_model", version="1", spec=SPEC, vector_spec=VECTOR_SPEC
    )
"""

from pathlib import Path

from job_vectors import VECTOR_SPEC  # noqa: F401  for lines like the one above
from sources import SPEC  # noqa: F401

from activity_embeddings import ActivityModel

MODELS = Path(__file__).parent / "models"

ACTIVITY_MODELS = [
    ActivityModel(MODELS / "unweighted_average"),
    ActivityModel(MODELS / "geometric_decay"),
    ActivityModel(MODELS / "cnn"),
]
