"""The demo page in a real browser, on a real `feast serve`: it shows what `explain` says."""

import json
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from activity_embeddings import explain
from support.browser import chromium
from support.feast_repo import PROJECT, at, events_table, small_data, small_repo, vectors_table
from support.feast_server import feast_server

pytestmark = [pytest.mark.slow, pytest.mark.process]

T = at(4)
BIG = 2**60
"""Where ids begin: JavaScript's numbers would lose digits of such."""
BUSY = BIG + 21
PHONE = 390


@pytest.fixture(scope="module")
def repo(tmp_path_factory, models):
    repo = small_repo(tmp_path_factory.mktemp("demo") / "repo", models)
    events, vectors = small_data()
    table = vectors_table(vectors)
    titles = [f"<b>Job</b> number {job}" for job in table["job_id"].to_pylist()]
    repo.write_vectors(big(table.append_column("title", pa.array(titles))))
    repo.write_events(big(events_table(events)))
    for name in ("static_artifacts.py", "demo.html"):
        shutil.copy(PROJECT / "examples" / "demo_page" / name, repo.path)
    repo.publish(at(-41), T)
    return repo


def big(table):
    """Return a source with its ids of members and jobs above `BIG`."""
    for name in {"member_id", "job_id"} & set(table.column_names):
        table = table.set_column(table.column_names.index(name), name, pc.add(table[name], BIG))
    return table


@pytest.fixture(scope="module")
def server(repo, tmp_path_factory):
    with feast_server(repo, tmp_path_factory.mktemp("log") / "serve.log") as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser, server):
    browser.open(f"{server.url}/demo", PHONE)
    browser.evaluate("work")
    yield browser
    assert browser.evaluate("find('error').textContent") == ""
    assert not browser.messages
    # The page needs nobody but the server.
    assert all(url.startswith((server.url, "data:")) for url in browser.requests)
    width = browser.evaluate("document.documentElement.scrollWidth")
    assert width == PHONE


def title(job):
    return f"<b>Job</b> number {job - BIG}"


def choose(page, which, text):
    script = """
    const box = find(WHICH);
    box.selectedIndex = [...box.options].findIndex(option => option.text === TEXT);
    box.onchange();
    """.replace("WHICH", json.dumps(which)).replace("TEXT", json.dumps(text))
    page.evaluate(f"(() => {{ {script} return work; }})()")


def click(page, action, job):
    """Click on an action of an item; return when the page says that was."""
    label = json.dumps(f"{action} {title(BIG + job)}")
    page.evaluate(f"find('find').value = 'number {job}'; list()")
    page.evaluate(f"document.querySelector(`[aria-label=${{CSS.escape({label})}}]`).click(); work")
    return page.evaluate("clicks.at(-1).time")


def ids(page, selector):
    texts = page.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(row => row.dataset.item)"
    )
    return [json.loads(text) for text in texts]


def texts(page, selector):
    return page.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(row => row.innerText)"
    )


def offered(page):
    return {json.loads(text) for text in page.evaluate("[...items.keys()].map(json)")}


def assert_shows(page, explanation):
    """Say what the page should show of an explanation of one output."""
    (output,) = explanation.outputs
    there = offered(page)
    nearest = [near.item for near in output.nearest if near.item in there][:10]
    assert ids(page, "#ranking li") == nearest and nearest
    reversed_items = [activity.item for activity in reversed(explanation.activities)]
    assert ids(page, "#activities li, #older li") == reversed_items
    page.evaluate("find('more').open = true")
    rows = texts(page, "#activities li, #older li")
    for i, row in enumerate(reversed(rows)):
        assert f"{100 * output.moved[i]:.1f} %" in row
        without = [near.item for near in output.nearest_without[i] if near.item in there][:10]
        for job in set(without) - set(nearest):
            assert f"+\u00a0{title(job)}" in row
        for job in set(nearest) - set(without):
            assert f"−\u00a0{title(job)}" in row
        assert ("Without it" in row) == (set(without) != set(nearest))


def explained(repo, member, recent=()):
    return explain(repo.store, member, models=["cnn"], recent=list(recent), as_of=T, nearest=99)


def test_a_member_is_shown_as_explained(page, repo):
    assert page.evaluate("find('member').options[0].text") == str(BUSY)
    choose(page, "model", "cnn")
    assert_shows(page, explained(repo, BUSY))


def test_a_click_moves_the_ranking_and_can_be_taken_back(page, repo):
    choose(page, "model", "cnn")
    choose(page, "member", str(BIG + 20))
    first = ids(page, "#ranking li")
    recent = [
        (BIG + job, action, click(page, action, job)) for job, action in [(3, "SAVE"), (4, "APPLY")]
    ]
    then = explain(
        repo.store,
        BIG + 20,
        models=["cnn"],
        recent=recent,
        as_of=page.evaluate("text(Date.parse(clicks.at(-1).time) + 1)"),
        nearest=99,
    )
    assert [activity.new for activity in then.activities[-2:]] == [True, True]
    assert_shows(page, then)
    assert ids(page, "#ranking li") != first
    assert any("▲" in row or "▼" in row for row in texts(page, "#ranking li"))
    for _ in recent:
        page.evaluate("document.querySelector('#activities button').click(); work")
    assert ids(page, "#ranking li") == first


def test_somebody_new_begins_with_nothing(page):
    choose(page, "member", "somebody new")
    assert texts(page, "#ranking li") == ["No activity counts yet."]
    assert texts(page, "#activities li") == ["Nothing lately."]
    choose(page, "model", "geometric_decay")
    click(page, "DISMISS", 3)
    click(page, "SAVE", 4)
    assert [row.split("\n")[2] for row in texts(page, "#activities li")] == [
        "100.0 % of save_embedding",
        "100.0 % of dismiss_embedding",
    ]
    assert {"Nearest to save_embedding", "Nearest to dismiss_embedding"} == set(
        texts(page, "#nearest h3")
    )
    assert BIG + 3 not in ids(page, "#ranking li")


def test_what_is_looked_for_is_found_by_its_name(page):
    page.evaluate("find('find').value = 'NUMBER 2'; find('find').oninput()")
    found = ids(page, "#catalogue li")
    assert found and all(title(job).startswith("<b>Job</b> number 2") for job in found)
    page.evaluate("find('find').value = 'nothing like it'; find('find').oninput()")
    assert texts(page, "#catalogue li") == ["No such item."]
