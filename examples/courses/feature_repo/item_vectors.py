"""Item vectors by an encoder, a SavedModel that reads what the items contain."""

from entities import item
from feast import Field, FileSource
from feast.types import Array, String
from sources import OWNER, REPO

from activity_embeddings import encoded_vector_view, posting_view, vector_spec_of

postings_source = FileSource(
    name="course_postings",
    path="../data/courses.parquet",
    timestamp_field="since",
    description="One row an item and version: its content, and since when it is like this.",
    owner=OWNER,
)

postings = posting_view(
    postings_source,
    item=item,
    schema=[
        Field(name="title", dtype=String),
        Field(name="group", dtype=Array(String)),
    ],
    owner=OWNER,
)

vectors = encoded_vector_view(
    REPO / "models" / "item_encoder",
    postings=postings,
    item=item,
    repo=REPO,
    owner=OWNER,
)

# What models are made for, where a line of `activity_models.py` has to say it.
VECTOR_SPEC = vector_spec_of(vectors)
