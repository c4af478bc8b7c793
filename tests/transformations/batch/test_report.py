"""What a run did, in words."""

from activity_embeddings.transformations.batch.report import (
    MaterializeReport,
    ViewReport,
    view_table,
)
from support.feast_repo import at, us


def test_a_report_reads_right_for_one_of_everything():
    report = MaterializeReport(
        events=1, duplicates=1, positions=9_999, unknown=1, snapshots=[us(at(0.5)) + 15_500_000],
        changed=1, members=1, silent=0,
        views={"some_view": ViewReport("1", rows=1, pushed_rows=1, pushed_values=1)},
    )  # fmt: skip
    assert str(report).splitlines()[:4] == [
        "activity embeddings: 1 snapshot as of 2024-03-01 12:00:15.5 UTC, 1 file new or changed",
        "  events   1 read, 1 duplicate left out; under 0.1 % of the activity in the windows is on "
        "unknown items",
        "  members  1 in the last snapshot, 0 of them silent",
        "  rows     1 offline in 1 view; 1 online (1 value)",
    ]


def test_a_report_reads_right_for_many_and_for_none():
    many = MaterializeReport(
        positions=1, unknown=99_999, snapshots=[us(at(0)), us(at(1))], changed=1_234,
        duplicates=2_000, views={
            "one": ViewReport("1", rows=1_000, replaced=700, expired=[1, 2], expired_rows=900),
            "other": ViewReport("2", rows=500, expired=[1], expired_rows=300),
        },
    )  # fmt: skip
    text = str(many)
    assert "2 snapshots from 2024-03-01 00:00 to 2024-03-02 00:00 UTC, 1,234 files" in text
    assert "2,000 duplicates left out; over 99.9 % of the activity" in text
    assert "  rows     1,500 offline in 2 views in place of 700; 0 online" in text
    assert "  expired  3 snapshots of 1,200 rows" in text
    none = str(MaterializeReport())
    assert none.startswith("activity embeddings: no snapshots, no files new or changed\n")
    assert "no duplicates left out; 0 % of the activity" in none


def test_a_plan_has_a_line_for_each_view():
    views = {
        "job_vectors": ViewReport("1", pushed_rows=5),
        "job_activity_embedding_cnn": ViewReport(
            "2.1", rows=1_000, replaced=700, expired=[1, 2], expired_rows=900, pushed_rows=1_500
        ),
    }
    assert view_table(views).splitlines() == [
        "  view                        version  rows offline  rows replaced  rows expired  "
        "rows online",
        "  job_vectors                       1             0              0             0  "
        "          5",
        "  job_activity_embedding_cnn      2.1         1,000            700           900  "
        "      1,500",
    ]
