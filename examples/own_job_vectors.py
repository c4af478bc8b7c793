"""Job vectors of your own, not an encoder's: copy this file over `feature_repo/item_vectors.py`.

The rest of the feature repo takes `VECTOR_SPEC` and `job_embedding` from there, and does not
know where vectors come from.
"""

from datetime import timedelta

from entities import job
from feast import FeatureView, Field, FileSource
from feast.types import Array, Float32, Int64
from sources import DATA, OWNER

from activity_embeddings import ItemVectorSpec, vector_tags

VECTOR_SPEC = ItemVectorSpec(name="content_and_behaviour", version="1", dimension=64)

job_embeddings = FileSource(
    name="job_embeddings",
    path=str(DATA / "job_embeddings.parquet"),
    timestamp_field="event_timestamp",
    description="One row a job and version: job_id, embedding, event_timestamp.",
    owner=OWNER,
)

job_embedding = FeatureView(
    name="job_embedding",
    entities=[job],
    source=job_embeddings,
    schema=[
        Field(name="job_id", dtype=Int64),
        Field(name="embedding", dtype=Array(Float32), description="Vector of length 64."),
    ],
    ttl=timedelta(days=0),
    online=True,
    description="Job vectors; a job is known from its first one on.",
    tags=vector_tags(VECTOR_SPEC, table="data/job_vectors"),
    owner=OWNER,
)
