"""What each recommendation model reads. Versions live side by side.

Where `ACTIVITY_MODELS` lacks a model, `feast apply` leaves its services out and says so.
"""

from views import domain

recommendations_v1 = domain.service(
    "recommendations_v1",
    "geometric_decay",
    description="Recommendations, by geometrically decaying averages.",
)

search_v1 = domain.service(
    "search_v1",
    "unweighted_average",
    description="Personalised search, by unweighted averages.",
)

recommendations_v1_realtime = domain.service(
    "recommendations_v1_realtime",
    "geometric_decay",
    realtime=True,
    description="Recommendations, by geometrically decaying averages as of the request.",
)

search_v1_realtime = domain.service(
    "search_v1_realtime",
    "unweighted_average",
    realtime=True,
    description="Personalised search, by unweighted averages as of the request.",
)
