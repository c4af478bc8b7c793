"""What each recommendation model reads. Two versions live side by side."""

from feast import FeatureService
from sources import OWNER
from views import EMBEDDING_VIEWS, REALTIME_VIEWS, member_activity_sequence

ACTIVITY = ["activity_count", "last_activity_at"]

jymbii_v1 = FeatureService(
    name="jymbii_v1",
    features=[
        member_activity_sequence[ACTIVITY],
        EMBEDDING_VIEWS["member_activity_embedding_geometric_decay"],
    ],
    description="Jobs you may be interested in, by geometrically decaying averages.",
    owner=OWNER,
)

jymbii_v2 = FeatureService(
    name="jymbii_v2",
    features=[member_activity_sequence[ACTIVITY], EMBEDDING_VIEWS["member_activity_embedding_cnn"]],
    description="Jobs you may be interested in, by one learned vector.",
    owner=OWNER,
)

job_search_v1 = FeatureService(
    name="job_search_v1",
    features=[
        member_activity_sequence[ACTIVITY],
        EMBEDDING_VIEWS["member_activity_embedding_unweighted_average"],
    ],
    description="Personalised job search, by unweighted averages.",
    owner=OWNER,
)

jymbii_v2_realtime = FeatureService(
    name="jymbii_v2_realtime",
    features=[REALTIME_VIEWS["member_activity_embedding_cnn_realtime"]],
    description="Jobs you may be interested in, by one learned vector as of the request.",
    owner=OWNER,
)

job_search_v1_realtime = FeatureService(
    name="job_search_v1_realtime",
    features=[REALTIME_VIEWS["member_activity_embedding_unweighted_average_realtime"]],
    description="Personalised job search, by unweighted averages as of the request.",
    owner=OWNER,
)
