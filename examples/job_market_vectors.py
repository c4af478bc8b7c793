"""Item vectors of the simulated job market: its postings have a title, a description and a group.

`make demo DATA=jobs` copies this file over `item_vectors.py` of a feature repo of its own.
"""

from entities import item
from feast import Field, FileSource
from feast.types import Array, String
from sources import OWNER, REPO

from activity_embeddings import encoded_vector_view, posting_view, vector_spec_of

postings_source = FileSource(
    name="job_postings",
    path="data/job_postings.parquet",
    timestamp_field="event_timestamp",
    description="One row a job and version: its content, and since when it is like this.",
    owner=OWNER,
)

postings = posting_view(
    postings_source,
    item=item,
    schema=[
        Field(name="title", dtype=String),
        Field(name="description", dtype=String),
        Field(name="group", dtype=Array(String)),
    ],
    tags={"simulated": "true"},  # reports say so
    owner=OWNER,
)

vectors = encoded_vector_view(
    REPO / "models" / "item_encoder",
    postings=postings,
    item=item,
    repo=REPO,
    owner=OWNER,
)

VECTOR_SPEC = vector_spec_of(vectors)
