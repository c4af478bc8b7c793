"""Go back to a version of a model that was replaced, and publish its newest values."""

from __future__ import annotations

from pathlib import Path

from feast import FeatureStore, FeatureView

from activity_embeddings.transformations.artifacts import local_path
from activity_embeddings.transformations.contract.kept_versions import (
    finish_replacing,
    kept_versions,
    put_into_place,
    version_before,
    version_in_place,
)
from activity_embeddings.transformations.definitions.registered import registered_domain
from activity_embeddings.transformations.definitions.tags import in_repo
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.repo import apply_repo
from activity_embeddings.transformations.names import Tag
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.times import to_datetime


def rollback(
    repo: str | Path, model: str, *, to: str | None = None, item: str | None = None
) -> str:
    """Put a kept version of a model into place, apply it, and publish it; return which.

    Its values are computed as of the newest snapshot of the sequences, and replace those of the
    other version online. If it cannot be applied or published, all is as it was.

    Parameters
    ----------
    repo
        Folder of the feature repo.
    model
        Its name.
    to
        A version; None: the one packaged before that in place.
    item
        Name of the item's entity, where the feature repo has several domains.

    Raises
    ------
    InvalidInput
        There is no such model, or no such version is kept; or it cannot be published.
    """
    repo = Path(repo)
    store = FeatureStore(repo_path=str(repo))
    domain = registered_domain(store, item)
    view = _view_of(model, domain.embeddings)
    place = view.tags[Tag.MODEL_PATH]
    if local_path(place) is None:
        raise InvalidInput(
            f"model {model!r}: expected a folder of this machine. Received: {place}. Put the "
            "version before back there, then run `feast apply` and `feast materialize`"
        )
    folder = in_repo(place, repo)
    finish_replacing(folder)
    now = version_in_place(folder) or view.tags[Tag.MODEL_VERSION]
    kept = kept_versions(folder)
    version = version_before(folder) if to is None else to
    if version not in kept:
        raise InvalidInput(
            f"model {model!r}: expected a version that is kept: {', '.join(kept) or 'none'}. "
            f"Received: {version}, while {now} is in place"
        )
    newest = sink_of(domain.sequence, store.config).committed()[-1:]
    put_into_place(folder, kept[version], now)
    try:
        apply_repo(repo)
        for as_of in newest:
            FeatureStore(repo_path=str(repo)).materialize(
                to_datetime(as_of - 1), to_datetime(as_of), feature_views=[view.name]
            )
    except BaseException:
        put_into_place(folder, kept_versions(folder)[now], version)
        apply_repo(repo)
        raise
    return version


def _view_of(model: str, embeddings: list[FeatureView]) -> FeatureView:
    by_model = {view.tags[Tag.MODEL]: view for view in embeddings}
    if model not in by_model:
        raise InvalidInput(
            f"expected the name of a model: {', '.join(by_model) or 'none'}. Received: {model!r}"
        )
    return by_model[model]
