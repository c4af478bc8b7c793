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
    item_column,
    item_name,
    member_column,
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
from activity_embeddings.transformations.errors import InvalidInput
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
    if answers.vectors is not None and (answers.postings is not None or answers.encoder):
        raise InvalidInput(
            "init: expected item vectors of your own, or an encoder that reads postings. "
            "Received: --vectors and --postings or --encoder"
        )
    names, member_type, item_type, actions, events = _events(repo, answers, ask)
    items, dimension, item_type = _items(repo, answers, names, item_type, ask)
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
    repo: Path, answers: Answers, ask: Ask
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
    member = _column(head, answers.member, "--member", "who acts", member_column(head), ask)
    item = _column(
        head, answers.item, "--item", "what was acted on", item_column(head, member), ask
    )
    action = _column(
        head,
        answers.action,
        "--action",
        "what was done",
        action_column(head, (member, item)),
        ask,
    )
    time = _column(head, answers.time, "--time", "when it was done", time_column_of(head), ask)
    require_zoned_time(head.type_of(time), time, str(head.path))
    event_id = answers.event_id
    if event_id is None and EVENT_ID in head.columns:
        event_id = EVENT_ID
    elif event_id is not None:
        head.require(event_id, "--event-id")
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
    )
    return names, head.id_type(member), head.id_type(item), actions, source


def _items(
    repo: Path, answers: Answers, names: DomainNames, item_type: IdType, ask: Ask
) -> tuple[VectorSource | PostingSource, int, IdType]:
    """Return the source of item vectors or postings, the dimension, and the type of the ids."""
    path = answers.vectors or answers.postings
    if path is None:
        dimension = answers.dimension or 64
        if answers.encoder:
            return PostingSource(item_id=names.item_id), dimension, item_type
        return VectorSource(item_id=names.item_id), dimension, item_type
    head = read_head(path)
    found = names.item_id if names.item_id in head.columns else item_column(head)
    item_id = _column(head, None, "--item", "the item", found, ask)
    time = _column(head, None, "--time", "since when it is valid", time_column_of(head), ask)
    require_zoned_time(head.type_of(time), time, str(head.path))
    if head.id_type(item_id) != item_type and answers.events is not None:
        raise InvalidInput(
            f"{path}: column {item_id!r} should hold ids of the type that they have in "
            f"{answers.events}, {item_type}. Received: {head.id_type(item_id)}"
        )
    if answers.postings is not None:
        content = head.contents(without=[item_id, time])
        return (
            PostingSource(_within(repo, path), item_id, time, content),
            answers.dimension or 64,
            head.id_type(item_id),
        )
    vectors = head.vectors()
    vector = EMBEDDING if EMBEDDING in vectors else next(iter(vectors), None)
    if vector is None or (len(vectors) > 1 and vector != EMBEDDING):
        raise InvalidInput(
            f"{path}: expected one column of vectors, list<float>, or one called {EMBEDDING}. "
            f"Received: {', '.join(vectors) or 'none'}"
        )
    if answers.dimension not in (None, vectors[vector]):
        raise InvalidInput(
            f"--dimension {answers.dimension}: expected the length of the vectors in {path}, "
            f"{vectors[vector]}"
        )
    source = VectorSource(_within(repo, path), item_id, vector, time)
    return source, vectors[vector], head.id_type(item_id)


def _column(
    head: Head, said: str | None, option: str, what: str, proposed: str | None, ask: Ask
) -> str:
    """Return a column that the user named, or the proposed one, or the one that is asked for."""
    if said is not None:
        return head.require(said, option)
    column = proposed or ask(what, head.columns)
    if column is None:
        raise InvalidInput(
            f"{head.path}: expected a column that says {what}; name it with {option}. "
            f"Received columns: {', '.join(head.columns)}"
        )
    return head.require(column, option)


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
