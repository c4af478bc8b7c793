"""However few events are held together, all files, rows and counts are the same."""

import re

import pyarrow.parquet as pq
import pytest

from activity_embeddings.transformations.batch import engine, snapshot_run
from activity_embeddings.transformations.offline import sources, spill
from activity_embeddings.transformations.online import publish
from support.feast_repo import (
    STRING_IDS,
    at,
    events_table,
    interval,
    small_repo,
    with_string_ids,
)

pytestmark = pytest.mark.slow


def work(repo):
    """Publish, leave days out, fill them in later, and publish all again; return the reports."""
    repo.run("apply")
    outputs = [repo.materialize(at(start), at(end)).output for start, end in ((-1, 2), (6, 8))]
    outputs += [repo.materialize(at(2), at(6)).output, repo.materialize(at(-1), at(9)).output]
    said = [line for text in outputs for line in text.splitlines() if line.startswith("  ")]
    return [line for line in said if not re.match(r"  (seconds|0%)|.*it/s", line)]


@pytest.mark.parametrize("settings", [None, STRING_IDS], ids=["integers", "text"])
def test_rows_do_not_depend_on_the_budget(tmp_path, models, monkeypatch, settings):
    settings = {} if settings is None else {"settings": settings}
    usual, small = (
        small_repo(tmp_path / name, models, seed=7, members=30, days=12, **settings)
        for name in ("usual", "small")
    )
    if settings:
        for repo in (usual, small):
            with_text_ids(repo)
        by_member(small)
        monkeypatch.setattr(sources, "HELD", 0.001)  # a member's rows are more than a part has
        monkeypatch.setattr(sources, "SAMPLE_ROWS", 9)
    reports = work(usual)
    parts = []
    read = snapshot_run.SnapshotRun._read_events

    def counted(self, cutoffs):
        for part in read(self, cutoffs):
            parts.append(part[0])
            yield part

    spilled = []

    def spilled_parts(*arguments, **named):
        spilled.append(1)
        return spill.spilled_parts(*arguments, **named)

    monkeypatch.setattr(sources, "spilled_parts", spilled_parts)
    monkeypatch.setattr(snapshot_run.SnapshotRun, "_read_events", counted)
    monkeypatch.setattr(engine, "MIB", 1)  # 512 bytes of events
    monkeypatch.setattr(publish, "WRITE_BATCH", 3)
    monkeypatch.setattr(publish, "SLICE_BYTES", 1)
    assert work(small) == reports
    assert len(parts) > 4 * 5
    assert small.stores() == usual.stores()
    assert not list(small.data.rglob("spilled-*"))
    # Files by member need no spill.
    assert bool(spilled) == (not settings)
    if settings:
        # A bad row of the last member is met when parts of others are made.
        bad = events_table([(9_999_999, 1, "VIEW", at(9.5))])
        pq.write_table(with_string_ids(bad), small.events / "later.parquet")
        parts.clear()
        outcome = small.feast(*interval(at(9), at(10)))
        assert outcome.code == 1 and "Received: 'VIEW'" in outcome.output
        assert len(parts) > 4 and small.stores() == usual.stores()


def by_member(repo):
    """Put the rows of events in the order of members, four to a row group."""
    file = repo.events / "history.parquet"
    pq.write_table(pq.read_table(file).sort_by("member_id"), file, row_group_size=4)


def with_text_ids(repo):
    file = repo.events / "history.parquet"
    repo.write_events(with_string_ids(pq.read_table(file)))
    repo.write_vectors(with_string_ids(pq.read_table(repo.data / "job_embeddings.parquet")))


def test_a_budget_that_is_too_small_is_refused(tmp_path, models):
    repo = small_repo(tmp_path / "repo", models, members=3, days=3)
    repo.edit(
        "feature_store.yaml",
        "  snapshot_interval_hours: 24",
        "  snapshot_interval_hours: 24\n  memory_budget_mb: 1",
    )
    refused = repo.feast("apply")
    assert refused.code == 1
    assert "memory_budget_mb: Input should be greater than or equal to 64" in refused.output
