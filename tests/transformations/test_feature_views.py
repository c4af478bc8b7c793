"""Views say at once what they cannot be made of."""

import pytest


def refusal(repo):
    refused = repo.feast("apply")
    assert refused.code == 1
    (line,) = [line for line in refused.output.splitlines() if line.startswith("Error: ")]
    return line


@pytest.mark.parametrize(
    ("entity", "old", "new"),
    [
        ("member", 'join_keys=["member_id"]', 'join_keys=["user_id"]'),
        ("job", 'join_keys=["job_id"]', 'join_keys=["posting"]'),
        ("member", '    join_keys=["member_id"],\n', ""),
    ],
)
def test_another_join_key_is_refused(repo, entity, old, new):
    repo.edit("entities.py", old, new)
    line = refusal(repo)
    received = new.split('"')[1] if new else "member"
    assert f"entity {entity!r}: expected join_keys=['{entity}_id']" in line
    assert f"Received: join key {received!r}" in line
    assert f"field_mapping={{{received!r}: '{entity}_id'}}" in line


def test_a_view_of_events_that_are_not_the_members_is_refused(repo):
    repo.edit("sources.py", "import member\n", "import job, member\n")
    repo.edit("sources.py", "entities=[member]", "entities=[job]")
    line = refusal(repo)
    assert "member_activity: expected entities=[member]" in line and "Received: job" in line
