"""The report shows what the result says, to everyone: on a phone, in print, without colours."""

import copy
import functools
import itertools
import json
import math
import os
import re
import subprocess
import sys
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.evaluation.report import charts
from activity_embeddings.training.evaluation.report.charts import Row
from activity_embeddings.training.evaluation.report.page import render_report, write_report
from activity_embeddings.transformations.errors import InvalidInput
from support.browser import chromium, pdf_pages
from support.evaluation_results import sample_result

pytestmark = pytest.mark.slow

PHONE, DESK = (360, 800), (1280, 900)
WINDOWS = pytest.mark.parametrize("window", [PHONE, DESK], ids=["phone", "desk"])
HOSTILE = (
    "<script>throw 1</script>",
    '"><img src=x onerror=throw(1)>',
    "</svg></table><h1>$\\frac{1}{$ & {{ 7 * 7 }}",
    "a_name_without_any_place_to_break_it_" * 4,
    "línea\nnueva \x00\x1b ‮ 職",
)


@pytest.fixture(scope="module")
def browser():
    with chromium() as tab:
        yield tab


@pytest.fixture(scope="module")
def results():
    """What the pages are made of."""
    return {
        "measured": sample_result(),
        "simulated": sample_result(simulated=True),
        "hostile": hostile_result(),
        "nothing": {"schema": 1},
    }


@pytest.fixture(scope="module")
def pages(results, tmp_path_factory):
    """The pages that tests look at, by name; written once."""
    folder = tmp_path_factory.mktemp("pages")
    for name, result in results.items():
        write_report(result, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in results}


def hostile_result():
    """A result where every text that people choose is an attack on the page."""
    result = sample_result(simulated=True)
    text = json.dumps(result)
    for old, new in zip(("cnn", "gru", "average", "oracle", "placebo"), HOSTILE, strict=True):
        text = text.replace(f'"{old}"', json.dumps(new))
    result = json.loads(text)
    result["title"], result["data"]["description"], result["commands"][0] = HOSTILE[:3]
    result["conclusions"] = list(HOSTILE)
    for places in (result["checks"], result["targets"], result["slices"]):
        for place, name in zip(places, HOSTILE, strict=False):
            place.update({key: name for key in place if key in ("name", "says", "claim", "value")})
    result["freshness"]["points"][0]["lag"] = HOSTILE[2]
    result["versions"] = {HOSTILE[0]: HOSTILE[1]}
    return result


def small_result():
    """A result with every part, but few arms, so that its page is quickly made."""
    result = sample_result(simulated=True)
    kept = ("nothing", "decay", "oracle")
    result["arms"] = [arm for arm in result["arms"] if arm["name"] in kept]
    for task in result["tasks"].values():
        task["figures"] = {name: v for name, v in task["figures"].items() if name in kept}
    result["comparisons"] = [row for row in result["comparisons"] if row["arm"] in kept]
    result["slices"] = result["slices"][:1]
    result["slices"][0]["differences"] = result["slices"][0]["differences"][:2]
    result["quality"] = {name: result["quality"][name] for name in kept[1:]}
    result["training_curves"] = result["training_curves"][:1]
    result["training_curves"][0]["epochs"] = result["training_curves"][0]["epochs"][:2]
    result["decay_searches"] = result["decay_searches"][:1]
    for part in (*result["decay_searches"], result["freshness"]):
        part["points"] = part["points"][:2]
    result["sequence_lengths"] = result["sequence_lengths"][:2]
    return result


class Text(HTMLParser):
    """What a page says: its text and what charts say of themselves, without style."""

    def __init__(self, page):
        super().__init__()
        self.said, self.headings, self._in = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self._in.append(tag)
        self.said += [value for name, value in attributes if name in ("aria-label", "data-arm")]

    def handle_endtag(self, tag):
        self._in.append("")

    def handle_data(self, data):
        if self._in[-1:] != ["style"] and data.strip():
            self.said.append(data.strip())
            if self._in[-1] == "h2":
                self.headings.append(data)


def says_nothing_unknown(page):
    said = "\n".join(Text(page).said)
    return not re.search(r"\b(none|nan|null|undefined|inf|infinity)\b", said, re.IGNORECASE)


def table_of_arms(browser):
    """The table as it is seen: rows of cells by arm, and the header above each cell."""
    return browser.evaluate("""(() => {
        const table = document.getElementById("table-of-arms"), over = [];
        for (const cell of table.rows[0].cells)
            for (let i = 0; i < cell.colSpan; i++) over.push(cell.innerText);
        const header = [...table.rows[1].cells].map((c, i) => [over[i], c.innerText].join("|"));
        const rows = [...table.querySelectorAll("tr[data-arm]")].map(r => [r.dataset.arm,
            Object.fromEntries([...r.cells].map((c, i) => [header[i].trim(), c.innerText]))]);
        return Object.fromEntries(rows);
    })()""")


def numbers(text):
    return [float(found) for found in re.findall(r"[+-]?\d*\.?\d+", text.replace(",", ""))]


def shows(text, *values, digits=4):
    """Whether a text has just these numbers, rounded; a dash where there is none."""
    if values == (None,):
        return text == "–"
    found = numbers(text.replace(", ", " "))
    half = 0.5 * 10**-digits + 1e-12
    return len(found) == len(values) and all(
        abs(a - b) <= half for a, b in zip(found, values, strict=True)
    )


@pytest.mark.parametrize("simulated", [False, True])
def test_every_figure_of_every_arm_is_that_of_the_result(simulated, browser, pages):
    result = sample_result(simulated=simulated)
    browser.open(pages["simulated" if simulated else "measured"])
    seen = table_of_arms(browser)
    assert list(seen) == [arm["name"] for arm in result["arms"]]
    versus = {
        (row["task"], row["arm"]): row
        for row in result["comparisons"]
        if row["against"] == "nothing"
    }
    for arm in result["arms"]:
        name = arm["name"]
        row = seen[name]
        day, to_date, week, alone, like = (
            result["tasks"][task]["figures"].get(name, {})
            for task in ("day", "to_date", "week", "alone", "like")
        )
        assert shows(row["Day|NDCG@10"], day["ndcg_at_10"])
        assert shows(row["Day|seed spread"], day["seed_spread"])
        assert shows(row["Day|Recall@10"], day["recall_at_10"])
        assert shows(row["Day|MRR"], day["mrr"])
        assert shows(row["Week|NDCG@10"], week["ndcg_at_10"])
        assert shows(row["Day, base to date|NDCG@10"], to_date.get("ndcg_at_10"))
        assert shows(row["Day, without a ranker|NDCG@10"], alone.get("ndcg_at_10"))
        assert shows(row["Like or dismiss|AUC"], like["auc"])
        assert shows(row["Like or dismiss|log loss"], like["log_loss"])
        assert shows(row["Like or dismiss|AUC within members"], like["within_member_auc"])
        assert shows(row["Cost|columns"], arm["features"], digits=0)
        assert shows(row["Cost|bytes a member"], arm["bytes_per_member"], digits=0)
        for task, title in (
            ("day", "Day"),
            ("to_date", "Day, base to date"),
            ("week", "Week"),
            ("alone", "Day, without a ranker"),
        ):
            compared, text = versus.get((task, name)), row[f"{title}|difference to nothing"]
            if compared:
                assert shows(text, compared["difference"], compared["low"], compared["high"])
            else:
                assert text == "–"
        compared = versus.get(("day", name), {})
        assert shows(row["Day|p (Holm)"], compared.get("p_holm"))
        verdict = {True: "● yes", False: "○ no", None: "–"}[compared.get("real")]
        assert row["Day|real"] == verdict
        share = compared.get("share_of_possible")
        if simulated:
            seen_share = row["Day|share of the possible"].removesuffix(" %")
            assert shows(seen_share, share and 100 * share, digits=0)
        else:
            assert "Day|share of the possible" not in row


def test_every_comparison_is_that_of_the_result(browser, pages):
    browser.open(pages["simulated"])
    rows = browser.evaluate("""[...document.querySelectorAll(
        "#comparisons + .scroll tbody tr")].map(r => [...r.cells].map(c => c.innerText))""")
    expected = sample_result(simulated=True)["comparisons"]
    assert len(rows) == len(expected)
    for cells, row in zip(rows, expected, strict=True):
        assert cells[:4] == [row["arm"], row["against"], row["task"], "NDCG@10"]
        assert shows(cells[4], row["difference"])
        assert shows(cells[5], row["low"], row["high"])
        assert shows(cells[6].removesuffix(" %"), 100 * row["relative"], digits=1)
        assert shows(cells[7], row["p"])
        assert shows(cells[8], row["p_holm"])
        assert cells[9] == ("● yes" if row["real"] else "○ no")
        assert shows(cells[10], row["minimum_detectable_effect"])


def test_the_rest_of_the_result_is_there_too(browser, pages):
    result = sample_result(simulated=True)
    browser.open(pages["simulated"])
    text = browser.evaluate("document.body.innerText")
    for sentence in (
        *result["conclusions"],
        *(check["says"] for check in result["checks"]),
        *(target["claim"] for target in result["targets"]),
        *(task["title"] for task in result["tasks"].values()),
        "Base features: positives, days since activity, popularity of the week.",
        *(arm["title"] for arm in result["arms"]),
        *(arm["fingerprint"] for arm in result["arms"] if arm["fingerprint"]),
        *result["commands"],
        *(f"{name}\t{version}" for name, version in result["versions"].items()),
        result["data"]["events_fingerprint"],
        result["data"]["vector_spec"]["fingerprint"],
        "79,570",
        "30 minutes",
        "10,000 resamples",
        "5 min 12 s",
    ):
        assert sentence.replace("\t", "\n") in text or sentence in text, sentence
    effects = [
        row["minimum_detectable_effect"]
        for row in result["comparisons"]
        if (row["task"], row["against"]) == ("day", "nothing")
    ]
    (line,) = re.findall(r"Smallest difference .*?day (.*?), day, base to date .*, week", text)
    assert shows(line, min(effects), max(effects))
    for row in result["quality"].values():
        for value in row.values():
            assert re.search(re.escape(f"{value:.4f}".lstrip("0")), text), row


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("simulated", "Values as of the request."),
        ("measured", "Values as the daily run had published them."),
    ],
)
def test_every_table_of_differences_says_as_of_when_values_are(browser, pages, name, says):
    browser.open(pages[name])
    sections = browser.evaluate("""Object.fromEntries(["arms", "lift", "against", "slices",
        "comparisons", "exact", "method"].map(
        name => [name, document.getElementById(name).parentElement.textContent]))""")
    assert {section: says in text for section, text in sections.items()} == dict.fromkeys(
        sections, True
    )


def test_every_figure_is_shown_by_age_of_the_embedding(browser, pages):
    browser.open(pages["simulated"])
    rows = browser.evaluate("""[...document.querySelectorAll("#ages tr")].map(
        r => [...r.cells].map(c => c.innerText))""")
    points = sample_result(simulated=True)["freshness"]["points"]
    names = ("ndcg_at_10", "recall_at_10", "mrr", "auc", "log_loss", "within_member_auc")
    assert rows[0][1:4] == ["NDCG@10", "Recall@10", "MRR"]
    for (lag, *cells), point in zip(rows[1:], points, strict=True):
        assert lag == point["lag"]
        assert len(cells) == len(names)
        for cell, name in zip(cells, names, strict=True):
            assert shows(cell, point[name])


def test_what_failed_says_so_in_words(browser, pages):
    browser.open(pages["measured"])
    said = browser.evaluate("""[...document.querySelectorAll(".verdicts li")].map(
        e => e.innerText.split("\\n").join(" "))""")
    result = sample_result()
    words = {True: ("✓ passed", "✓ reached"), False: ("✗ FAILED", "✗ not reached")}
    expected = [words[check["passed"]][0] for check in result["checks"]]
    expected += [words[target["reached"]][1] for target in result["targets"]]
    assert [text.startswith(word) for text, word in zip(said, expected, strict=True)] == [
        True
    ] * len(expected)


def test_what_nobody_decided_is_neither_passed_nor_failed():
    result = small_result()
    result["checks"], result["targets"] = [{"name": "A/A", "passed": None}], [{"claim": "much"}]
    said = Text(render_report(result)).said
    assert said.count("? not known") == 3  # A/A is told below the table too
    assert not {"✓ passed", "✗ FAILED", "✓ reached", "✗ not reached"} & set(said)


@pytest.mark.parametrize("name", ["measured", "simulated", "hostile", "nothing"])
def test_the_page_needs_nothing_but_itself(name, browser, pages):
    text = pages[name].read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"@import|@font-face|(src|srcset|action|poster)\s*=\s*[\"']", strip(text))
    assert set(re.findall(r"href=\"([^#\"][^\"]*)", text)) <= {"data:,"}
    assert not re.search(r"url\((?!#)", text)
    assert "http" not in text
    browser.open(pages[name])
    assert [url for url in browser.requests if not url.startswith("data:")] == [
        pages[name].as_uri()
    ]
    assert browser.messages == []


def strip(page):
    """A page without what stands in its texts and labels, where names may look like anything."""
    return re.sub(r">[^<]*<|(aria-label|data-arm)=\"[^\"]*\"", "><", page)


@WINDOWS
@pytest.mark.parametrize("name", ["measured", "simulated", "hostile", "nothing"])
def test_the_page_never_scrolls_sideways(name, window, browser, pages):
    browser.open(pages[name], *window)
    assert browser.evaluate("innerWidth") == window[0]
    assert browser.evaluate("document.documentElement.scrollWidth") == window[0]
    browser.evaluate("scrollTo(500, 0)")
    assert browser.evaluate("scrollX") == 0


def test_names_of_arms_stay_in_sight_when_the_table_is_scrolled_on_a_phone(browser, pages):
    browser.open(pages["simulated"], *PHONE)
    before, after, width, scrolled = browser.evaluate("""(() => {
        const table = document.getElementById("table-of-arms"), region = table.parentElement;
        const name = table.querySelector("tr[data-arm=cnn] th");
        const left = () => name.getBoundingClientRect().left;
        const before = left();
        region.scrollLeft = 400;
        return [before, left(), name.getBoundingClientRect().width, region.scrollLeft];
    })()""")
    assert scrolled == 400
    assert before == after
    assert width < 0.45 * PHONE[0]


SIZES = """(() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), sizes = [];
    while (walker.nextNode()) {
        const node = walker.currentNode, element = node.parentElement;
        if (!node.data.trim()) continue;
        const scale = element instanceof SVGElement ? element.getScreenCTM().a : 1;
        sizes.push([parseFloat(getComputedStyle(element).fontSize) * scale, node.data.trim()]);
    }
    return sizes;
})()"""


def test_names_of_arms_are_broken_between_words_on_a_phone(browser, tmp_path):
    result = sample_result()
    text = json.dumps(result).replace('"placebo"', '"category_sums+several_rates"')
    write_report(json.loads(text), tmp_path / "page.html")
    browser.open(tmp_path / "page.html", *PHONE)
    broken = browser.evaluate(
        """[...document.querySelectorAll('th.stay')].flatMap(cell => {
            const found = [], range = document.createRange();
            const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
            while (walker.nextNode()) {
                const text = walker.currentNode;
                if (text.parentNode !== cell) continue;
                range.selectNodeContents(text);
                if (range.getClientRects().length > 1) found.push(text.data);
            }
            return found;
        })"""
    )
    assert broken == []
    names = "[...document.querySelectorAll('th.stay')].map(cell => cell.firstChild.data)"
    assert "category_" in browser.evaluate(names)


@WINDOWS
def test_all_text_can_be_read(window, browser, pages):
    browser.open(pages["simulated"], *window)
    sizes = browser.evaluate(SIZES)
    assert len(sizes) > 500
    assert min(sizes)[0] >= 11, min(sizes)


@WINDOWS
@pytest.mark.parametrize("name", ["measured", "simulated", "hostile"])
def test_headings_and_charts_are_seen_and_no_chart_is_cut(name, window, browser, pages):
    browser.open(pages[name], *window)
    boxes = browser.evaluate("""[...document.querySelectorAll("h1, h2, figcaption, svg")].map(e => {
        const {left, right, width, height} = e.getBoundingClientRect();
        return {seen: e.checkVisibility(), left, right, width, height};
    })""")
    assert len(boxes) > 40
    for box in boxes:
        assert box["seen"] and box["width"] > 50 and box["height"] > 15, box
        assert box["left"] >= 0 and box["right"] <= window[0], box
    outside = browser.evaluate("""[...document.querySelectorAll("svg text")].filter(e => {
        const text = e.getBoundingClientRect(), all = e.ownerSVGElement.getBoundingClientRect();
        return text.left < all.left - 1 || text.right > all.right + 4 || text.top < all.top - 1
            || text.bottom > all.bottom + 1;
    }).map(e => e.textContent)""")
    assert outside == []


OVERLAPS = """[...document.querySelectorAll("svg")].flatMap(svg => {
    const all = [...svg.querySelectorAll("text")].map(e => [e, e.getBoundingClientRect()]);
    return all.flatMap(([a, p], i) => all.slice(i + 1).filter(([b, q]) =>
        p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 4
        && q.top < p.bottom - 4).map(([b]) => a.textContent + " / " + b.textContent));
})"""


@pytest.mark.parametrize("name", ["measured", "simulated", "hostile"])
def test_no_text_of_a_chart_stands_on_another(name, browser, pages):
    browser.open(pages[name], *PHONE)
    assert browser.evaluate(OVERLAPS) == []


CONTRASTS = """(() => {
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const light = color => color.slice(0, 3).map(c => c / 255).map(
        c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4
    ).reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
    const ground = e => {
        for (; e; e = e.parentElement) {
            const color = rgb(getComputedStyle(e).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
    while (walker.nextNode()) {
        const e = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim()) continue;
        const style = getComputedStyle(e);
        const pair = [light(rgb(e instanceof SVGElement ? style.fill : style.color)),
                      light(ground(e))].sort((a, b) => b - a);
        found.push([(pair[0] + .05) / (pair[1] + .05), walker.currentNode.data.trim()]);
    }
    return found;
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(dark, browser, pages):
    """By 4.5 to 1, as WCAG 2 asks of small text."""
    browser.open(pages["simulated"], dark=dark)
    contrasts = browser.evaluate(CONTRASTS)
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (not dark)
    assert len(contrasts) > 500
    assert min(contrasts)[0] >= 4.5, min(contrasts)


@pytest.mark.parametrize("medium", ["screen", "print"])
def test_a_simulated_result_is_labelled_wherever_it_is_looked_at(medium, browser, pages):
    browser.open(pages["simulated"], *DESK)
    browser.media(medium)
    label = browser.evaluate("""(() => {
        const e = document.querySelector(".label strong"), {top, width} = e.getBoundingClientRect();
        return [e.innerText, e.checkVisibility(), top, width,
                parseFloat(getComputedStyle(e).fontSize)];
    })()""")
    assert label[:2] == ["SIMULATED DATA", True]
    assert label[2] < DESK[1] / 2 and label[3] > 100 and label[4] >= 17
    captions = browser.evaluate(
        "[...document.querySelectorAll('figcaption, caption')].map(e => e.innerText)"
    )
    charts_and_tables = browser.evaluate("document.querySelectorAll('svg, table').length")
    assert len(captions) == charts_and_tables > 20
    assert all("Simulated data." in caption for caption in captions)
    assert browser.evaluate("document.title").startswith("SIMULATED DATA")


def test_every_printed_page_of_a_simulated_result_is_labelled(browser, pages, tmp_path):
    printed = pdf_pages(browser.open(pages["simulated"]).pdf(tmp_path / "simulated.pdf"))
    assert 8 <= len(printed) <= 20
    assert all("SIMULATEDDATA" in text for text in printed)


def test_a_measured_result_says_what_stands_in_for_items_and_is_not_called_simulated(
    browser, pages, tmp_path
):
    browser.open(pages["measured"])
    label = browser.evaluate("document.querySelector('.label').innerText")
    assert label == "Data: MovieTweetings: films stand in for jobs (a proxy domain)"
    assert "simulated" not in " ".join(Text(pages["measured"].read_text()).said).lower()
    printed = pdf_pages(browser.pdf(tmp_path / "measured.pdf"))
    assert not any("simulated" in text.lower() for text in printed)
    assert "filmsstandinforjobs" in printed[0]


def test_print_shows_whole_tables_and_every_section(browser, pages, tmp_path):
    file = browser.open(pages["simulated"]).pdf(tmp_path / "page.pdf")
    printed = pdf_pages(file)
    (arms,) = [text for text in printed if "Allarms" in text and "Smallest" in text]
    for column in ("NDCG@10", "Recall@10", "logloss", "bytesamember", "oracle"):
        assert column in arms
    sizes = {
        tuple(round(float(edge)) for edge in box.split())
        for box in re.findall(rb"/MediaBox \[0 0 ([\d. ]+)\]", file.read_bytes())
    }
    assert sizes == {(595, 842), (842, 595)} or sizes == {(596, 842), (842, 596)}
    together = "".join(printed)
    for heading in Text(pages["simulated"].read_text()).headings:
        assert "".join(heading.split()) in together, heading
    browser.media("print")
    assert browser.evaluate("""[...document.querySelectorAll(".scroll")].every(
        e => getComputedStyle(e).overflowX === "visible")""")


def test_the_page_is_one_that_a_screen_reader_can_tell(browser, pages):
    browser.open(pages["simulated"])
    facts = browser.evaluate("""({
        language: document.documentElement.lang,
        mode: document.compatMode,
        headings: [...document.querySelectorAll("h1, h2, h3")].map(e => +e.tagName[1]),
        titles: [...document.querySelectorAll("th:not([scope])")].length,
        captions: [...document.querySelectorAll("table")].every(e => e.caption),
        charts: [...document.querySelectorAll("svg")].every(
            e => e.getAttribute("role") === "img" && e.getAttribute("aria-label").length > 40),
        named: [...document.querySelectorAll("[role=region]")].every(e => e.tabIndex === 0 &&
            (e.ariaLabel || document.getElementById(e.getAttribute("aria-labelledby")))),
        ids: [...document.querySelectorAll("[id]")].map(e => e.id),
        meant: [...document.documentElement.outerHTML.matchAll(
            /href="#([^"]+)"|url\\(&quot;#|url\\(#([^)]+)\\)/g)].map(m => m[1] || m[2]),
    })""")
    assert facts["language"] == "en"
    assert facts["mode"] == "CSS1Compat"
    levels = facts["headings"]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert facts["titles"] == 0
    assert facts["captions"] and facts["charts"] and facts["named"]
    assert len(facts["ids"]) == len(set(facts["ids"]))
    assert set(facts["meant"]) <= set(facts["ids"]) and len(facts["meant"]) > 50


def test_hostile_names_are_text(browser, pages):
    browser.open(pages["hostile"])
    kinds = (
        "document.querySelectorAll('script, img').length + document.querySelectorAll('h1').length"
    )
    assert browser.evaluate(kinds) == 1
    clean = [re.sub(r"[\x00\x1b\u202e]", " ", name) for name in HOSTILE]
    seen = table_of_arms(browser)
    assert {" ".join(name.split()) for name in clean} <= {" ".join(name.split()) for name in seen}
    said = browser.evaluate("""[...document.querySelectorAll(".conclusions li")].map(
        e => e.textContent)""")
    assert said == clean
    labels = browser.evaluate("[...document.querySelectorAll('svg text')].map(e => e.textContent)")
    for name in clean:
        assert any(" ".join(name.split()).startswith(text[:-1]) for text in labels if text[1:]), (
            name
        )
    told = browser.evaluate("document.querySelector('svg').getAttribute('aria-label')")
    assert " ".join(clean[0].split()) in told


def test_a_dollar_and_a_tag_in_a_chart_are_letters():
    drawn = charts.forest("name", [Row("$x^2$ <b>", 0.1, None, None)], (0.0, 1.0), "says")
    assert "$x^2$ &lt;b&gt;</text>" in drawn
    assert "<b>" not in drawn


@pytest.mark.parametrize(
    "part",
    [key for key in sample_result() if key not in ("schema", "title")],
)
@pytest.mark.parametrize("instead", ["missing", None])
def test_a_part_that_is_missing_is_left_out(part, instead, each_chart_drawn_once):
    result = small_result()
    result[part] = None
    if instead == "missing":
        del result[part]
    page = render_report(result)
    assert says_nothing_unknown(page)
    gone = set(whole_headings()) - set(Text(page).headings)
    assert gone == SECTIONS_OF.get(part, set())


@pytest.fixture(scope="module")
def each_chart_drawn_once():
    """Pages that share their charts draw them once: a chart is a function of its arguments."""
    drawn = {}

    def once(draw, *arguments):
        key = draw.__name__, repr(arguments)
        if key not in drawn:
            drawn[key] = draw(*arguments)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("forest", "search_curve", "training_curve", "freshness_curve"):
            patch.setattr(charts, name, functools.partial(once, getattr(charts, name)))
        yield


@functools.cache
def whole_headings():
    return Text(render_report(small_result())).headings


SECTIONS_OF = {
    "conclusions": {"What it says"},
    "checks": {"Can the instrument be trusted?"},
    "comparisons": {"Lift over nothing", "Is it better than decay?", "Every comparison"},
    "slices": {"For whom, and when"},
    "quality": {"The embeddings alone"},
    "arms": {"What it costs to store"},
    "targets": {"Targets"},
}


@pytest.mark.parametrize("kept", [{}, {key: type(part)() for key, part in sample_result().items()}])
def test_a_result_of_nothing_is_a_page_without_sections(kept):
    page = render_report({**kept, "schema": 1})
    assert Text(page).headings == []
    assert says_nothing_unknown(page)
    assert page.count("<h1>") == 1


def leaves(value, path=()):
    """Where the figures and texts of a result are."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, key))
    elif path != ("schema",):
        yield path


LEAVES = list(leaves(small_result()))
UNKNOWN = (None, math.nan, math.inf)


def with_changes(changes):
    result = small_result()
    for path, value in changes.items():
        *above, last = path
        holder = result
        for key in above:
            holder = holder[key]
        holder[last] = value
    return result


@given(st.dictionaries(st.sampled_from(LEAVES), st.sampled_from(UNKNOWN), min_size=1, max_size=60))
@settings(max_examples=8, deadline=None)
def test_a_figure_that_is_not_known_is_never_written_as_a_word(changes):
    assert says_nothing_unknown(render_report(with_changes(changes)))


@pytest.mark.parametrize("turn", range(8))
def test_each_figure_may_be_unknown_among_known_ones(turn):
    changes = dict.fromkeys(LEAVES[turn::8])
    assert says_nothing_unknown(render_report(with_changes(changes)))


@pytest.mark.parametrize("value", UNKNOWN)
def test_a_page_of_which_nothing_is_known_says_nothing_unknown(value):
    assert says_nothing_unknown(render_report(with_changes(dict.fromkeys(LEAVES, value))))


def test_an_arm_that_nobody_described_has_its_figures(tmp_path, browser):
    result = sample_result()
    result["arms"] = [arm for arm in result["arms"] if arm["name"] != "cnn"]
    write_report(result, tmp_path / "page.html")
    seen = table_of_arms(browser.open(tmp_path / "page.html"))
    assert shows(seen["cnn"]["Day|NDCG@10"], result["tasks"]["day"]["figures"]["cnn"]["ndcg_at_10"])
    assert list(seen)[-1] == "cnn"


def test_the_leak_canary_is_in_the_tables_but_does_not_squeeze_the_charts(browser, pages, tmp_path):
    result = sample_result()
    leak = copy.deepcopy(next(r for r in result["comparisons"] if r["arm"] == "placebo"))
    leak |= {"arm": "leak_canary", "difference": 0.6, "low": 0.59, "high": 0.61, "real": True}
    result["comparisons"].append(leak)
    write_report(result, tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    plain = browser.evaluate("document.querySelector('#lift').closest('section').innerHTML")
    tables = browser.evaluate(
        "document.querySelector('#comparisons').closest('section').textContent"
    )
    assert "placebo" in plain
    assert "leak_canary" not in plain
    assert "leak_canary" in tables
    browser.open(pages["measured"])
    without = browser.evaluate("document.querySelector('#lift').closest('section').innerHTML")
    assert plain == without


def marks(drawn):
    """The centres and fills of the marks of a forest plot, from the top."""
    found = re.findall(r'<use href="[^"]*" x="([\d.]+)" y="([\d.]+)" style="fill: ([^;"]+)', drawn)
    # Ticks of the axis are at its foot, drawn in the muted colour.
    return [(float(x), float(y), fill) for x, y, fill in found if "muted" not in fill]


@given(
    st.lists(
        st.tuples(st.floats(-0.05, 0.05), st.sampled_from([True, False, None])),
        min_size=2,
        max_size=5,
    )
)
@settings(max_examples=15, deadline=None)
def test_marks_stand_where_their_figures_are_and_only_unproved_ones_are_hollow(given_rows):
    rows = [Row(f"arm {i}", d, d - 0.01, d + 0.01, real) for i, (d, real) in enumerate(given_rows)]
    low, high = -0.1, 0.15
    drawn = charts.forest("plot", rows, (low, high), "says")
    found = marks(drawn)
    assert len(found) == len(rows)
    for row, (x, _, fill) in zip(rows, found, strict=True):
        share = (row.difference - low) / (high - low)
        assert abs(x - charts.EDGE - share * (charts.WIDTH - 2 * charts.EDGE)) < 0.01
        assert fill == ("var(--paper)" if row.real is False else "var(--accent)")
    assert [y for _, y, _ in found] == sorted(y for _, y, _ in found)


def lines(drawn, kind):
    """The corners of what is drawn in the accent colour: of a line, or of an area that it fills."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*style="[^"]*{kind}: var\(--accent\)', drawn)
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
        for path in found
    ]


def in_proportion(places, values, *, upwards=False):
    """Whether places, CSS pixels from the left or from the top, are values on one scale."""
    scale = (places[-1] - places[0]) / (values[-1] - values[0])
    assert (scale < 0) == upwards
    return all(
        abs(place - places[0] - scale * (value - values[0])) < 0.02
        for place, value in zip(places, values, strict=True)
    )


def test_lines_of_intervals_end_where_the_intervals_do():
    drawn = charts.forest("plot", [Row("arm", 0.01, -0.02, 0.03)], (-0.1, 0.1), "says")
    ((left, _), (right, _)) = lines(drawn, "stroke")[0]
    ((middle, _, _),) = marks(drawn)
    assert in_proportion([left, middle, right], [-0.02, 0.01, 0.03])


def test_curves_go_through_their_points_in_order_of_the_axis():
    points = [(0.9, 0.28), (0.5, 0.27), (1.0, 0.25)]
    found = marks(charts.search_curve("plot", points, 0.9, "a figure"))
    assert in_proportion([x for x, _, _ in found], [0.5, 0.9, 1.0])
    assert in_proportion([y for _, y, _ in found], [0.27, 0.28, 0.25], upwards=True)
    rows = [
        ("1 day", 86400, Row("a", 0.002, 0.0, 0.004)),
        ("1 hour", 3600, Row("a", 0.01, 0, 0.02)),
    ]
    drawn = charts.freshness_curve("plot", rows, "says")
    (x_hour, y_hour, _), (x_day, y_day, _) = marks(drawn)[-2:]
    assert x_hour < x_day and y_hour < y_day
    assert drawn.index("1 hour: +.0100 [+.0000, +.0200]") < drawn.index("1 day: +.0020")


def test_bars_are_as_high_as_their_counts():
    bars = lines(charts.lengths_histogram("plot", [(3, 40), (1, 100), (2, 70)]), "fill")
    heights = [bar[0][1] - bar[2][1] for bar in bars]
    assert in_proportion([0, *heights], [0, 100, 70, 40])
    assert [bar[0][0] for bar in bars] == sorted(bar[0][0] for bar in bars)


def test_periods_are_drawn_from_their_start_to_their_end(pages):
    result = sample_result()
    page = pages["measured"].read_text(encoding="utf-8")
    (drawn,) = re.findall(r'<g id="timeline-figure_1">(.*?)</svg>', page, re.S)
    bars = lines(drawn, "fill")
    moments = [result["data"]["from"], *(result["timeline"][k] for k in PERIODS)]
    seconds = [datetime.fromisoformat(moment).timestamp() for moment in moments]
    ends = [bars[0][0][0], *(bar[1][0] for bar in bars)]
    assert in_proportion(ends, seconds)
    assert [bar[0][0] for bar in bars] == ends[:-1]


PERIODS = ("learn_until", "test_from", "until")


def test_charts_that_are_compared_have_one_scale(pages):
    page = pages["simulated"].read_text(encoding="utf-8")
    ticks = {}
    for name, drawn in re.findall(r'<g id="(lift|slice)-[^"]*figure_1">(.*?)</svg>', page, re.S):
        axis = re.search(r"matplotlib.axis_1.*?matplotlib.axis_2", drawn, re.S)[0]
        ticks.setdefault(name, set()).add(tuple(re.findall(r'x="([\d.]+)" y="[\d.]+" style', axis)))
    assert {name: len(scales) for name, scales in ticks.items()} == {"lift": 1, "slice": 1}


@pytest.mark.process
def test_the_same_result_gives_the_same_bytes_in_every_process(pages, tmp_path):
    result = sample_result(simulated=True)
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsvg.fonttype: path\naxes.grid: True\n")
    script = (
        "import json, sys; from pathlib import Path\n"
        "from activity_embeddings.training.evaluation.report.page import write_report\n"
        "write_report(json.loads(Path('result.json').read_text()), Path('there.html'))\n"
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[4]),
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
    }
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "there.html").read_bytes() == pages["simulated"].read_bytes()


def test_the_result_is_not_changed(results, pages):
    assert results["simulated"] == sample_result(simulated=True)


@pytest.mark.parametrize("result", [{}, {"schema": 2}, [], {"schema": "1"}])
def test_a_result_of_another_schema_is_refused_and_nothing_is_written(result, tmp_path):
    file = tmp_path / "report.html"
    file.write_text("as it was")
    with pytest.raises(InvalidInput, match=r"with `schema` 1\. Received: "):
        write_report(result, file)
    assert file.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [file]


def test_a_page_is_replaced_and_its_folder_made(tmp_path):
    file = tmp_path / "new" / "report.html"
    for title in ("first", "second"):
        write_report({"schema": 1, "title": title}, file)
        assert f"<h1>{title}</h1>" in file.read_text()
    assert list(file.parent.iterdir()) == [file]


@given(st.floats(-3, 3))
def test_a_figure_reads_as_the_value_that_it_was_made_of(value):
    for text in (charts.figure_text(value), charts.signed_text(value)):
        assert re.fullmatch(r"[+-]?\d?\.\d{4}", text) and not text.lstrip("+-").startswith("0")
        assert abs(float(text) - value) <= 0.00005 + 1e-12
    assert charts.signed_text(value)[0] in "+-"


def test_figures_are_written_as_in_the_readme():
    assert charts.figure_text(0.1499) == ".1499"
    assert charts.figure_text(1.0) == "1.0000"
    assert charts.signed_text(0.00123) == "+.0012"
    assert charts.interval_text(-0.0011, 0.0023) == "[-.0011, +.0023]"
    assert charts.interval_text(None, 0.0023) == ""
