"""The slow, obvious implementation of examples and ranking that the fast ones are held to.

Plain Python over dicts and lists; shares no code with `training` or `transformations`. Events are
dicts with member_id, item_id, action, time and perhaps event_id; vectors are
(item_id, time, vector).
"""

import math

from support.reference import US_PER_DAY, sequence, vector_as_of

ORDER = ("PAD", "APPLY", "SAVE", "DISMISS")
POSITIVE = ("APPLY", "SAVE")


def distinct(events):
    """Return the events without exact duplicates, by member and in their total order."""
    seen = []
    for event in events:
        if event not in seen:
            seen.append(event)
    return sorted(
        seen,
        key=lambda e: (
            e["member_id"],
            e["time"],
            e.get("event_id", 0),
            e["job_id"],
            ORDER.index(e["action"]),
        ),
    )


def held_out(
    events, vectors, *, window_us, length, start, end, minimum=3, stride=1, prefixes=False
):
    """Return every example there is, (event, input), without a limit on rows of a member."""
    found = []
    events = distinct(events)
    for member in sorted({e["member_id"] for e in events}):
        usable = [
            e
            for e in events
            if e["member_id"] == member
            and start <= e["time"] < end
            and vector_as_of(vectors, e["job_id"], e["time"]) is not None
        ]
        rows = []
        for newer, event in enumerate(reversed(usable)):
            before, _ = sequence(
                events, vectors, member, event["time"], window_us=window_us, length=length
            )
            fills_a_window = len(before) + 1 >= length
            if (
                newer % stride == 0
                and len(before) >= minimum
                and (prefixes or newer == 0 or fills_a_window)
            ):
                rows.append((event, before))
        found.extend(reversed(rows))
    return found


def shifted_times(own_time, *, shift, start, end):
    """Return every time that a negative may have: all whole microseconds of them."""
    day = own_time // US_PER_DAY
    return [
        time
        for time in range(own_time - shift, own_time + shift + 1)
        if time // US_PER_DAY == day and start <= time < end
    ]


def allowed_items(events, vectors, member, time, *, window_us, end):
    """Return the items that a negative of a member at a time may have."""
    day = time // US_PER_DAY
    that_day = [e for e in events if e["time"] // US_PER_DAY == day and e["time"] < end]
    own = {
        e["job_id"]
        for e in events
        if e["member_id"] == member and (time - window_us <= e["time"] < time or (e in that_day))
    }
    return {
        e["job_id"]
        for e in that_day
        if e["job_id"] not in own and vector_as_of(vectors, e["job_id"], time) is not None
    }


def ranking_queries(events, vectors, *, window_us, length, start, end):
    """Return dicts of member, time, wanted, before, candidates and popularity (item to count)."""
    ever_known = {item for item, _, _ in vectors}
    queries = []
    for event, before in held_out(
        events,
        vectors,
        window_us=window_us,
        length=length,
        start=start,
        end=end,
        minimum=1,
        prefixes=True,
    ):
        if event["action"] not in POSITIVE:
            continue
        day = event["time"] // US_PER_DAY
        done = {item for item, _, _ in before}
        if event["job_id"] in done:
            continue
        candidates = {
            e["job_id"]
            for e in events
            if e["time"] // US_PER_DAY == day
            and e["time"] < end
            and e["job_id"] not in done
            and e["job_id"] != event["job_id"]
            and vector_as_of(vectors, e["job_id"], event["time"]) is not None
        }
        week = range((day - 7) * US_PER_DAY, day * US_PER_DAY)
        popularity = {
            item: sum(
                e["job_id"] == item and e["action"] in POSITIVE and e["time"] in week
                for e in distinct(events)
            )
            for item in ever_known
        }
        queries.append(
            {
                "member": event["member_id"],
                "time": event["time"],
                "wanted": event["job_id"],
                "before": before,
                "candidates": candidates,
                "popularity": popularity,
            }
        )
    return queries


def gain(score, others):
    """Return NDCG@10 of one wanted item: 1 / log2(rank + 1), the mean rank of ties rounded down."""
    better = sum(other > score for other in others)
    rank = 1 + better + sum(other == score for other in others) // 2
    return 1 / math.log2(rank + 1) if rank <= 10 else 0.0


def mean_of_members(queries, gains):
    """Return the mean gain of each member, in the order of member ids."""
    of_member = {}
    for query, value in zip(queries, gains, strict=True):
        of_member.setdefault(query["member"], []).append(value)
    return [sum(values) / len(values) for _, values in sorted(of_member.items())]
