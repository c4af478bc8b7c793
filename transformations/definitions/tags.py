"""What the tags of a view say: the facts that `feast apply` wrote, and how they are read back."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from feast import FeatureView
from feast.types import String

from activity_embeddings.transformations import names
from activity_embeddings.transformations.artifacts import (
    Location,
    below,
    is_url,
    local_folder,
    place_of,
    require_everywhere,
)
from activity_embeddings.transformations.errors import InvalidInput, first_line, quote
from activity_embeddings.transformations.names import DomainNames, Role, Tag
from activity_embeddings.transformations.spec import (
    ActivitySpec,
    ItemVectorSpec,
    vector_spec_of_kinds,
)


def event_tags(spec: ActivitySpec, domain: DomainNames = names.JOBS) -> dict[str, str]:
    """Return the tags of the view of activity events."""
    return {Tag.ROLE: Role.EVENTS, Tag.SPEC: spec.to_json(), Tag.DOMAIN: domain.to_json()}


def posting_tags() -> dict[str, str]:
    """Return the tags of the view of what items contain."""
    return {Tag.ROLE: Role.POSTINGS}


def vector_tags(embedding: ItemVectorSpec, *, table: Location | None = None) -> dict[str, str]:
    """Return the tags of the view of item embeddings: which vectors these are.

    Parameters
    ----------
    embedding
        Name, version and dimension.
    table
        Folder for the tables that serving processes map into memory, relative to the feature repo,
        or a URL; each version of the vectors has its own. None: request-time views read all item
        vectors from the online store.

    Raises
    ------
    InvalidInput
        The folder is an absolute path.
    """
    tags = {
        Tag.ROLE: Role.VECTORS,
        Tag.VECTORS: embedding.name,
        Tag.VECTORS_VERSION: embedding.version,
        Tag.VECTORS_DIMENSION: str(embedding.dimension),
    }
    tags |= fingerprint_tag(embedding)
    if table is not None:
        require_everywhere(f"item vectors {embedding.name!r}, `table`", table)
        place = below(table, f"v{embedding.version}")
        tags[Tag.VECTOR_TABLE] = place if isinstance(place, str) else place.as_posix()
    return tags


def fingerprint_tag(embedding: ItemVectorSpec) -> dict[str, str]:
    """Return the tag that tells one encoder from another; the user's own vectors have none."""
    if not embedding.fingerprint:
        return {}
    return {Tag.VECTORS_FINGERPRINT: embedding.fingerprint}


def vector_spec_of(view: FeatureView | Sequence[FeatureView]) -> ItemVectorSpec:
    """Return which item vectors those of a view are; invert `vector_tags`.

    Parameters
    ----------
    view
        The view; or those of all kinds of activity of a domain, the domain's own first.

    Raises
    ------
    InvalidInput
        The vectors of two kinds have different dimensions.
    """
    if isinstance(view, FeatureView):
        return ItemVectorSpec(
            view.tags[Tag.VECTORS],
            view.tags[Tag.VECTORS_VERSION],
            int(view.tags[Tag.VECTORS_DIMENSION]),
            view.tags.get(Tag.VECTORS_FINGERPRINT, ""),
        )
    return vector_spec_of_kinds({each.entities[0]: vector_spec_of(each) for each in view})


def has_encoder(view: FeatureView) -> bool:
    """Return whether a view of item vectors is made by an item encoder, and not the user's own."""
    return Tag.ENCODER_PATH in view.tags


def spec_of(view: FeatureView) -> ActivitySpec:
    """Return the spec of a view of events or sequences."""
    return ActivitySpec.of(view.tags)


def has_string_ids(view: FeatureView) -> bool:
    """Return whether the join key of a view is a string."""
    (column,) = view.entity_columns
    return column.dtype == String


def vector_table_of(view: FeatureView, repo: Path | None) -> Location | None:
    """Return where the vector table of a view of item embeddings lies, None without one."""
    tag = view.tags.get(Tag.VECTOR_TABLE)
    return None if tag is None else place_of(tag, repo) or tag


def in_repo(path: str, repo: Path | None) -> Path:
    """Return where a path of the registry is; of a URL of another place, this machine's copy.

    Raises
    ------
    InvalidInput
        See `place_of`.
    """
    return place_of(path, repo) or local_folder(path)


def within_repo(path: Location, repo: Path, what: str) -> str:
    """Invert `in_repo`: a path in the repo as the registry has it, which holds on any machine.

    Parameters
    ----------
    path
        Given by a definition; a URL stays what it is.
    repo
        Folder of the feature repo.
    what
        What is there, for the message.

    Raises
    ------
    InvalidInput
        An absolute path is not in the repo.
    """
    if is_url(path):
        return str(path)
    relative = relative_to_repo(path, repo)
    require_everywhere(what, relative)
    return relative


def relative_to_repo(path: Location, repo: Path) -> str:
    """Return a path in the repo by its path within it, another one as it is.

    Raises
    ------
    InvalidInput
        No file can have the path.
    """
    plain = Path(os.path.normpath(path))
    if plain.is_relative_to(repo):
        return plain.relative_to(repo).as_posix()
    try:
        real, root = Path(os.path.realpath(plain)), Path(os.path.realpath(repo))
    except ValueError as error:
        raise InvalidInput(
            f"path {quote(str(path))}: expected one that a file can have. "
            f"Received: {first_line(error)}"
        ) from error
    if plain.is_absolute() and real.is_relative_to(root):
        return real.relative_to(root).as_posix()
    return plain.as_posix()


def source_views_of(view: FeatureView) -> dict[str, list[str]]:
    """Return the names of the views that a view of ours is derived from, by role.

    Of one role there are several where a domain has several kinds of activity; see `kinds_of`.
    """
    found: dict[str, list[str]] = {}
    for source in view.source_views or []:
        found.setdefault(source.tags.get(Tag.ROLE, ""), []).append(source.name)
    return found


def release_of(view: FeatureView) -> str:
    """Return a short name of what an embedding view computes with: model, version and vectors."""
    tags = {key: value for key, value in view.tags.items() if key != Tag.MODEL_PATH}
    return hashlib.sha256(json.dumps(tags, sort_keys=True).encode()).hexdigest()[:16]
