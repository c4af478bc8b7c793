"""Job vectors of the simulated job market: its postings have a title, a description and a group.

`make demo DATA=jobs` copies this file over `item_vectors.py` of a feature repo of its own.
"""

from datetime import timedelta

from entities import job
from feast import FeatureView, Field, FileSource
from feast.types import Array, Int64, String
from sources import DATA, OWNER, SNAPSHOTS

from activity_embeddings import encoded_vector_view, posting_tags, vector_spec_of
from activity_embeddings.transformations.names import Tag

ITEM_ENCODER = DATA.parent / "models" / "item_encoder"

job_postings = FileSource(
    name="job_postings",
    path=str(DATA / "job_postings.parquet"),
    timestamp_field="event_timestamp",
    description="One row a job and version: its content, and since when it is like this.",
    owner=OWNER,
)

job_posting = FeatureView(
    name="job_posting",
    entities=[job],
    source=job_postings,
    schema=[
        Field(name="job_id", dtype=Int64),
        Field(name="title", dtype=String),
        Field(name="description", dtype=String),
        Field(name="group", dtype=Array(String)),
    ],
    ttl=timedelta(days=0),
    online=False,
    description="Content of job postings; the item encoder reads what it needs of it.",
    tags={**posting_tags(), Tag.SIMULATED: "true"},
    owner=OWNER,
)

job_embedding = encoded_vector_view(
    ITEM_ENCODER,
    postings=job_posting,
    item=job,
    snapshots=SNAPSHOTS,
    repo=DATA.parent,
    table="data/job_vectors",
    owner=OWNER,
)

VECTOR_SPEC = vector_spec_of(job_embedding)
