"""Several kinds of activity as one: where ids of items become texts that say their kind, and back.

In a domain of one kind ids are what they are. In a domain of several they are `"<kind>:<id>"`, as
`job:230` and `search:q17`, from where a kind's rows are read to where a kind's own store is asked.
So ids of two kinds never meet, and everything in between knows nothing of kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from activity_embeddings.transformations.activity.events import ActivityEvents, CheckedEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.arrow import rank_encode, require_one_type
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.ragged import ranges, with_last
from activity_embeddings.transformations.spec import ActivitySpec

SEPARATOR = ":"
"""Between kind and id. The name of a kind has none, so that an id may have one."""


def id_with_kind(kind: str, item_id: int | str) -> str:
    """Return an item id as one that says its kind."""
    return f"{kind}{SEPARATOR}{item_id}"


def ids_with_kind(kind: str, item_ids: pa.Array) -> pa.Array:
    """Return item ids, int64 or string [n], as ids that say their kind, large_string [n]."""
    texts = item_ids.cast(pa.large_string())
    prefix = pa.scalar(f"{kind}{SEPARATOR}", pa.large_string())
    return pc.binary_join_element_wise(prefix, texts, pa.scalar("", pa.large_string()))


def kind_and_id(text: str) -> tuple[str, str]:
    """Invert `id_with_kind`; an integer id stays text."""
    kind, _, item_id = text.partition(SEPARATOR)
    return kind, item_id


def ids_without_kind(item_ids: pa.Array, kind: str) -> pa.Array:
    """Invert `ids_with_kind`; integer ids stay texts, string [n]."""
    return pc.utf8_slice_codeunits(item_ids, len(f"{kind}{SEPARATOR}")).cast(pa.string())


def is_of_kind(item_ids: pa.Array, kind: str) -> np.ndarray:
    """Return whether each of some ids that say their kind is of a kind, bool [n]."""
    found = pc.starts_with(item_ids, f"{kind}{SEPARATOR}")
    return found.to_numpy(zero_copy_only=False).astype(bool)


def events_of_kinds(kinds: Mapping[str, CheckedEvents], spec: ActivitySpec) -> CheckedEvents:
    """Return the events of some kinds of a domain as those of one source.

    Parameters
    ----------
    kinds
        The events of each kind, checked by its own spec, by its name; at least one.
    spec
        Of all kinds; see `ActivitySpec.of_kinds`.

    Raises
    ------
    InvalidData
        Ids of members or events have different types, or only some kinds have event ids.

    Notes
    -----
    Sessions are of all kinds: one id in two of them is one session. All kinds have session ids, or
    none has.
    """
    parts = list(kinds.values())
    member_ids, members = _united([part.member_ids for part in parts])
    item_ids, items = _united([ids_with_kind(kind, p.item_ids) for kind, p in kinds.items()])
    having = [kind for kind, part in kinds.items() if part.event_ids is not None]
    if having and len(having) < len(kinds):
        raise InvalidData(
            "event ids: expected all kinds of activity to have them, or none. "
            f"Received: {', '.join(having)} of {', '.join(kinds)}"
        )
    event_ids = event = None
    if having:
        each = [part.event_ids for part in parts if part.event_ids is not None]
        event_ids, events = _united(each, what="event ids")
        codes = [part.event for part in parts if part.event is not None]
        event = np.concatenate([new[old] for new, old in zip(events, codes, strict=True)])
    session_ids = session = None
    each = [part.session_ids for part in parts if part.session_ids is not None]
    if each:
        session_ids, sessions = _united(each, what="session ids")
        # The last position of each, which -1 points at, is that of no session.
        session = np.concatenate(
            [
                with_last(new, -1)[part.session]
                for new, part in zip(sessions, parts, strict=True)
                if part.session is not None
            ]
        )
    return CheckedEvents(
        member_ids=member_ids,
        item_ids=item_ids,
        member=np.concatenate([new[p.member] for new, p in zip(members, parts, strict=True)]),
        item=np.concatenate([new[p.item] for new, p in zip(items, parts, strict=True)]),
        action=np.concatenate(
            [part.action + np.int16(spec.first_action_id(kind) - 1) for kind, part in kinds.items()]
        ),
        time=np.concatenate([part.time for part in parts]),
        other_actions=np.concatenate([part.other_actions for part in parts]),
        event_ids=event_ids,
        event=event,
        session_ids=session_ids,
        session=session,
    )


def count_of_kinds(
    events: ActivityEvents, as_of: int, *, spec: ActivitySpec, vectors: ItemVectors
) -> dict[str, tuple[int, int]]:
    """Count the events of each kind in the window of one as-of time.

    Returns
    -------
    dict
        From the name of each kind to how many there are, and how many of them are on items without
        a vector; empty where there is one kind alone.
    """
    if not spec.kinds:
        return {}
    inside = (events.time < as_of) & (events.time >= as_of - spec.window_us)
    unknown = inside & (vectors.known_at(events.item_ids)[events.item] > as_of)
    most = len(spec.vocabulary)
    of_actions = [np.bincount(events.action[each], minlength=most) for each in (inside, unknown)]
    found = {}
    for kind in spec.kinds:
        first = spec.first_action_id(kind.name)
        every, left_out = (n[first : first + len(kind.actions)].sum() for n in of_actions)
        found[kind.name] = (int(every), int(left_out))
    return found


def vectors_of_kinds(kinds: Mapping[str, ItemVectors]) -> ItemVectors:
    """Return the vectors of several kinds, by the name of each, as those of one.

    Raises
    ------
    InvalidData
        They have different lengths.
    """
    parts = list(kinds.values())
    dimensions = {kind: part.dimension for kind, part in kinds.items()}
    if len(set(dimensions.values())) > 1:
        raise InvalidData(
            "item vectors: expected those of all kinds of activity to have one length. Received: "
            + ", ".join(f"{kind} {size}" for kind, size in dimensions.items())
        )
    item_ids, positions = _united([ids_with_kind(kind, p.item_ids) for kind, p in kinds.items()])
    return vectors_at(item_ids, list(zip(parts, positions, strict=True)))


def vectors_at(item_ids: pa.Array, parts: Sequence[tuple[ItemVectors, np.ndarray]]) -> ItemVectors:
    """Return the vectors of items that are known by other ids in several parts.

    Parameters
    ----------
    item_ids
        N distinct ids, ascending.
    parts
        Vectors of some items, and the position of each item in `item_ids`; at least one part.
    """
    order = np.argsort(np.concatenate([position for _, position in parts]))
    counts = np.concatenate([np.diff(part.start) for part, _ in parts])
    first = np.cumsum(counts) - counts
    row = ranges(first[order], counts[order])
    matrix = np.concatenate([*(part.matrix[:-1] for part, _ in parts), parts[0][0].matrix[-1:]])
    start = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum(counts[order], out=start[1:])
    return ItemVectors(
        item_ids=item_ids,
        start=start,
        time=np.concatenate([part.time for part, _ in parts])[row],
        matrix=matrix[np.append(row, len(row))],
    )


def _united(
    parts: list[pa.Array], *, what: str = "ids of members"
) -> tuple[pa.Array, list[np.ndarray]]:
    """Return the distinct ids of several arrays, ascending, and each array's positions in them."""
    filled = [part for part in parts if len(part)]
    for part in filled:
        require_one_type(part, filled[0], what=f"{what} of all kinds of activity")
    ids, codes = rank_encode(pa.concat_arrays(filled) if filled else parts[0])
    ends = np.cumsum([len(part) for part in parts])
    return ids, np.split(codes, ends[:-1])
