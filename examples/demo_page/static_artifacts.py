"""What `feast serve` does before its first request; this one has a page for people, too.

It takes the place of the feature repo's own `static_artifacts.py`. The page is at /demo, and asks
the server for nothing but online features; what it has to know of the repo is at /demo/about.json.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).parent
ITEM = None
"""Name of the item's entity, where the feature repo has several domains."""
ITEMS, MEMBERS = 1_000, 20
"""How many items and members the page offers: those with the most activity in the window, and what
these members acted on."""


def load_artifacts(app: Any) -> None:
    """Feast calls this when a server starts: models and item vectors are loaded, or it ends."""
    from fastapi.responses import FileResponse

    from activity_embeddings import start_serving

    start_serving(app, REPO)
    about = about_repo()
    page = REPO / "demo.html"
    app.add_api_route("/demo", lambda: FileResponse(page), include_in_schema=False)
    app.add_api_route("/demo/about.json", lambda: about, include_in_schema=False)


def about_repo() -> dict[str, Any]:
    """Return what the page has to know: names, models, and whom and what it can offer."""
    from feast import FeatureStore
    from feast.types import Array, Float32, String

    from activity_embeddings import Period, TrainingSource

    store = FeatureStore(repo_path=str(REPO))
    source = TrainingSource(store, ITEM)
    domain, spec = source.domain, source.spec
    newest: datetime | None = domain.sequence.most_recent_end_time
    if newest is None:  # of every other error Feast makes a warning, and serves without the page
        raise SystemExit("demo page: nothing is published yet. Run `feast materialize`")
    events = source.events(Period(newest - spec.window, newest))
    called = source.item_names(newest)
    popular = np.argsort(-np.bincount(events.item), kind="stable")[:ITEMS]
    active = np.argsort(-np.diff(events.member_start), kind="stable")[:MEMBERS]
    theirs = events.of_members(np.sort(active)).item
    items = events.item_ids.take(list(dict.fromkeys([*popular, *theirs]))).to_pylist()
    names = domain.names
    declared = [field.name for field in domain.events.features]
    (member,) = domain.sequence.entity_columns
    served = {view.name for view in store.list_on_demand_feature_views()}
    return {
        "item": names.item,
        "member_id": names.member_id,
        "item_id": names.item_id,
        "vectors": f"{names.vectors_view}:embedding",
        "stored": [
            f"{names.sequence_view}:{feature}"
            for feature in (names.activity_item_ids, "activity_actions", "activity_times")
        ],
        "recent": names.recent_columns,
        # Of events and sessions, as far as they are declared: this page has none.
        "recent_ids": [
            column
            for column, name in (
                (names.recent_event_ids, names.event_id),
                (names.recent_session_ids, names.session_id),
            )
            if name in declared
        ],
        "actions": spec.actions,
        "window_ms": spec.window.total_seconds() * 1000,
        "length": spec.length,
        "as_of": newest.isoformat(),
        # Whoever has no row: what they did is told by the request alone.
        "nobody": "nobody-of-the-demo" if member.dtype == String else -(2**53) + 1,
        "members": events.member_ids.take(active).to_pylist(),
        "items": [[item, called.get(item, str(item))] for item in items],
        "models": [
            {
                "name": view.tags["model"],
                "view": f"{view.name}_realtime",
                "outputs": [
                    [field.name, _sign(field.name, spec)]
                    for field in view.features
                    if field.dtype == Array(Float32)
                ],
            }
            for view in sorted(domain.embeddings, key=lambda view: view.name)
            if f"{view.name}_realtime" in served
        ],
    }


def _sign(output: str, spec: Any) -> int:
    """Return -1 for the vector of an action that is not positive, which ranks items down."""
    negative = set(spec.actions) - set(spec.positive_actions)
    return -1 if output in {f"{action.lower()}_embedding" for action in negative} else 1
