"""Settings of a new feature repo: what the user says, and for the rest what the files show."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from activity_embeddings.training.new_repo.heads import (
    Head,
    action_column,
    described_item_column,
    item_column,
    item_name,
    member_column,
    only,
    positive_actions,
    read_head,
    time_column_of,
)
from activity_embeddings.training.new_repo.settings import (
    EventSource,
    IdType,
    PostingSource,
    RepoSettings,
    VectorSource,
)
from activity_embeddings.transformations.arrow import require_zoned_time
from activity_embeddings.transformations.artifacts import FILE_URL, path_beside
from activity_embeddings.transformations.errors import InvalidInput, quote
from activity_embeddings.transformations.feast_compat.repo import is_project_name
from activity_embeddings.transformations.names import (
    EMBEDDING,
    EVENT_ID,
    EVENT_TIMESTAMP,
    DomainNames,
    require_different_entities,
)
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

Ask = Callable[[str, Sequence[str]], str | None]
"""Asks for a column by what it should hold and the columns of the file; None: nobody answers."""


@dataclass(frozen=True)
class Answers:
    """What the user said of a new feature repo; None where the files decide, or the default.

    Attributes
    ----------
    project, member_name, item_name
        Names of the project and of the two entities.
    events, vectors, postings
        Files or folders.
    member, item, action, time, event_id
        Columns of the events.
    vector_item, vector_time, vector_column
        Columns of the vectors, the first two of postings too.
    member_type, item_type
        Types of the ids, where no file tells them.
    actions, positive
        Names of actions; the first has id 1.
    ignore_other_actions
        Whether events of other actions are left out instead of refused.
    dimension
        Length of an item vector.
    days, length
        The window, and the positions of a sequence.
    encoder
        Whether item vectors come from an encoder.
    simulated
        Whether the events are made up.
    """

    project: str | None = None
    member_name: str | None = None
    item_name: str | None = None
    events: Path | None = None
    vectors: Path | None = None
    postings: Path | None = None
    member: str | None = None
    item: str | None = None
    action: str | None = None
    time: str | None = None
    event_id: str | None = None
    vector_item: str | None = None
    vector_time: str | None = None
    vector_column: str | None = None
    member_type: IdType | None = None
    item_type: IdType | None = None
    actions: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    ignore_other_actions: bool = False
    dimension: int | None = None
    days: float = 28
    length: int = 32
    encoder: bool = False
    simulated: bool = False


def settings_for(
    repo: Path, answers: Answers, ask: Ask = lambda what, columns: None
) -> RepoSettings:
    """Return the settings of a new feature repo.

    Parameters
    ----------
    repo
        Its folder; paths of sources are written relative to it.
    answers
        What the user said.
    ask
        Is asked for a column that neither the user nor the file tells.

    Raises
    ------
    InvalidInput
        A file cannot be read, lacks a column, or does not tell which column is which.
    """
    own = answers.vectors is not None or answers.vector_column is not None
    if own and (answers.postings is not None or answers.encoder):
        raise InvalidInput(
            "init: expected item vectors of your own, or an encoder that reads postings. "
            "Received: --vectors or --vector-column, and --postings or --encoder"
        )
    if answers.project and not is_project_name(answers.project):
        raise InvalidInput(
            "--project: expected letters, digits, hyphens and underscores, and neither of the last "
            f"two first. Received: {quote(answers.project)}"
        )
    path = answers.vectors or answers.postings
    head = None if path is None else read_head(path)
    names, member_type, item_type, actions, events = _events(repo, answers, head, ask)
    items, dimension, item_type = _items(repo, answers, head, names, item_type, ask)
    member = answers.member_name or item_name(names.member_id)
    require_different_entities(member, names.item)
    return RepoSettings(
        project=answers.project or _project(repo),
        member=member,
        names=names,
        member_type=member_type,
        item_type=item_type,
        spec=ActivitySpec(
            window=timedelta(days=answers.days),
            length=answers.length,
            actions=actions,
            positive_actions=answers.positive or tuple(positive_actions(actions)),
            other_actions="ignore" if answers.ignore_other_actions else "refuse",
        ),
        vector_spec=ItemVectorSpec("item_vectors", "1", dimension),
        events=events,
        items=items,
        simulated=answers.simulated,
    )


def _events(
    repo: Path, answers: Answers, items: Head | None, ask: Ask
) -> tuple[DomainNames, IdType, IdType, tuple[str, ...], EventSource]:
    """Return names, types of the ids, actions and source of the events."""
    if answers.events is None:
        default = DomainNames()
        item = answers.item or default.item_id
        names = DomainNames(
            item=answers.item_name or item_name(item),
            member_id=answers.member or default.member_id,
            item_id=item,
            action=answers.action or default.action,
            event_id=answers.event_id or default.event_id,
        )
        source = EventSource(
            time=answers.time or EVENT_TIMESTAMP,
            event_id_type=None if answers.event_id is None else "int",
        )
        return (
            names,
            answers.member_type or "int",
            answers.item_type or "int",
            answers.actions or ActivitySpec().actions,
            source,
        )
    head = read_head(answers.events)
    event_id = answers.event_id
    if event_id is not None:
        head.require(event_id, "--event-id")
    elif EVENT_ID in head.columns:
        event_id = EVENT_ID
    columns = _Columns(head, ask)
    member = columns.choose(answers.member, "--member", "who acts", member_column(head))
    proposed = item_column(head, member, items)
    item = columns.choose(answers.item, "--item", "what was acted on", proposed)
    proposed = action_column(head, (member, item, event_id))
    action = columns.choose(answers.action, "--action", "what was done", proposed)
    time = columns.choose(answers.time, "--time", "when it was done", time_column_of(head))
    columns.require_all()
    member_type = _id_type(head, member, answers.member_type, "--member-type")
    item_type = _id_type(head, item, answers.item_type, "--item-type")
    head.require_text(action, "names of actions")
    require_zoned_time(head.type_of(time), time, str(head.path))
    actions = answers.actions or tuple(head.values(action))
    if not actions:
        raise InvalidInput(
            f"{head.path}: expected events, whose actions become the vocabulary. Received: none. "
            "Name them with --actions"
        )
    names = DomainNames(
        item=answers.item_name or item_name(item),
        member_id=member,
        item_id=item,
        action=action,
        event_id=event_id or EVENT_ID,
    )
    source = EventSource(
        path=_within(repo, answers.events),
        time=time,
        event_id_type=None if event_id is None else head.id_type(event_id),
        single_file=answers.events.is_file(),
    )
    return names, member_type, item_type, actions, source


def _items(
    repo: Path,
    answers: Answers,
    head: Head | None,
    names: DomainNames,
    item_type: IdType,
    ask: Ask,
) -> tuple[VectorSource | PostingSource, int, IdType]:
    """Return the source of item vectors or postings, the dimension, and the type of the ids."""
    if head is None:
        dimension = answers.dimension or 64
        item_id = answers.vector_item or names.item_id
        time = answers.vector_time or EVENT_TIMESTAMP
        if answers.encoder:
            return PostingSource(item_id=item_id, time=time), dimension, item_type
        column = answers.vector_column or EMBEDDING
        return VectorSource(item_id=item_id, vector=column, time=time), dimension, item_type
    path, columns = head.path, _Columns(head, ask)
    proposed = described_item_column(head, names.item_id)
    item_id = columns.choose(answers.vector_item, "--vector-item", "which item it is", proposed)
    proposed = time_column_of(head)
    since = "since when it is valid"
    time = columns.choose(answers.vector_time, "--vector-time", since, proposed)
    columns.require_all()
    require_zoned_time(head.type_of(time), time, str(path))
    if answers.events is None:
        item_type = _id_type(head, item_id, answers.item_type, "--item-type")
    elif head.id_type(item_id) != item_type:
        raise InvalidInput(
            f"{path}: column {item_id!r} should hold ids of the type that they have in "
            f"{answers.events}, {item_type}. Received: {head.id_type(item_id)}"
        )
    if answers.postings is not None:
        content = head.contents(without=[item_id, time])
        return (
            PostingSource(_within(repo, path), item_id, time, content),
            answers.dimension or 64,
            item_type,
        )
    said, vectors = answers.vector_column, head.vectors()
    if said is not None and head.require(said, "--vector-column") not in vectors:
        raise InvalidInput(
            f"--vector-column {said}: expected a column of vectors, list<float>, in {path}. "
            f"Received: {head.type_of(said)}"
        )
    vector = said or (EMBEDDING if EMBEDDING in vectors else only(vectors))
    if vector is None:
        hint = ". Name one with --vector-column" if vectors else ""
        raise InvalidInput(
            f"{path}: expected one column of vectors, list<float>, or one called {EMBEDDING}. "
            f"Received: {', '.join(vectors) or 'none'}{hint}"
        )
    if answers.dimension not in (None, vectors[vector]):
        raise InvalidInput(
            f"--dimension {answers.dimension}: expected the length of the vectors in {path}, "
            f"{vectors[vector]}"
        )
    source = VectorSource(_within(repo, path), item_id, vector, time)
    return source, vectors[vector], item_type


def _id_type(head: Head, column: str, said: IdType | None, option: str) -> IdType:
    """Return the type of the ids in a column, after checking what the user said of it."""
    kind = head.id_type(column)
    if said not in (None, kind):
        raise InvalidInput(
            f"{option} {said}: expected the type of {column!r} in {head.path}, {kind}"
        )
    return kind


class _Columns:
    """Columns of one file: those that the user named, or that are proposed, or asked for."""

    def __init__(self, head: Head, ask: Ask) -> None:
        self._head, self._ask = head, ask
        self._missing: dict[str, str] = {}

    def choose(self, said: str | None, option: str, what: str, proposed: str | None) -> str:
        """Return a column, or, where nobody tells it, an empty name; see `require_all`."""
        if said is not None:
            return self._head.require(said, option)
        column = proposed or self._ask(what, self._head.columns)
        if column is None:
            self._missing[option] = what
            return ""
        return self._head.require(column, option)

    def require_all(self) -> None:
        """Raise `InvalidInput` where nobody told a column, with the options that do."""
        if self._missing:
            one = len(self._missing) == 1
            raise InvalidInput(
                f"{self._head.path}: expected {'a column that says' if one else 'columns that say'}"
                f" {', '.join(self._missing.values())}; name {'it' if one else 'them'} with "
                f"{', '.join(self._missing)}. Received columns: {', '.join(self._head.columns)}"
            )


def _within(repo: Path, path: Path) -> str:
    """Return a path as it is written: relative to the feature repo, or a URL.

    An absolute path of the user is a URL where it is neither in nor beside the repo: it says that
    every machine has the file there.
    """
    if not path.is_absolute():
        return os.path.relpath(path.resolve(), repo.resolve())
    return path_beside(repo, path) or f"{FILE_URL}{path}"


def _project(repo: Path) -> str:
    """Return the name of the project: that of the folder, as Feast admits it."""
    name = "".join(c if c.isalnum() else "_" for c in repo.resolve().name).strip("_")
    return name if name and name.isascii() and not name[0].isdigit() else "activity_embeddings"
