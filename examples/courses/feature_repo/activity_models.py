"""The models that are published. Adding one is one line:

    ActivityModel(MODELS / "my_model"),

A line names a TensorFlow SavedModel. Its manifest, which `activity-embeddings package` writes, says
what it is, what it was trained on and which item vectors it expects. For a SavedModel without one,
say it here: `ActivityModel(MODELS / "my_model", name="my_model", version="1", spec=SPEC,
vector_spec=VECTOR_SPEC)`.
"""

from item_vectors import VECTOR_SPEC  # noqa: F401  for a line that says it
from sources import REPO, SPEC  # noqa: F401

from activity_embeddings import ActivityModel

MODELS = REPO / "models"

ACTIVITY_MODELS = [
    ActivityModel(MODELS / "unweighted_average"),
    ActivityModel(MODELS / "geometric_decay"),
]
