"""A sample of what an evaluation found: every part is there, with figures that fit each other."""

from __future__ import annotations

from typing import Any

import numpy as np

ARMS = (
    # name, title, role, how much it helps the simulated or measured ranker, vectors, values
    ("nothing", "the ranker without activity embeddings", "base", 0.0, 0, 0),
    ("item_counts", "counts of what came next, by the last item", "reference", 0.0021, 0, 0),
    ("average", "unweighted averages, a vector an action", "reference", 0.0064, 3, 192),
    ("decay", "geometric decay, a vector an action (r = 0.9)", "reference", 0.0081, 3, 192),
    ("decay_rates", "geometric decay at three rates", "reference", 0.0072, 3, 192),
    ("cnn", "CNN, next positive", "learned", 0.0112, 1, 64),
    ("gru", "GRU, next positive", "learned", 0.0029, 1, 64),
    ("transformer", "Transformer block, next positive", "learned", 0.0097, 1, 64),
    ("placebo", "decay of another member", "control", -0.0007, 3, 192),
)
ORACLE = ("oracle", "the true interests", "oracle", 0.0312, 1, 64)
SEEDS = (0, 1, 2, 3, 4)


def sample_result(*, simulated: bool = False) -> dict[str, Any]:
    """Return a whole `result`; a simulated one has an oracle and shares of its lift."""
    random = np.random.default_rng(20)
    arms = ARMS + ((ORACLE,) if simulated else ())
    names = [arm[0] for arm in arms]
    lift = {arm[0]: arm[3] for arm in arms}
    day = _ranked(random, 0.1499, lift)
    week = _ranked(random, 0.0921, {name: 0.7 * value for name, value in lift.items()})
    shown = {arm[0]: 2.3 * arm[3] for arm in ARMS if arm[2] != "control"}
    to_date = _ranked(random, 0.1043, shown)
    alone = _ranked(random, 0.0801, {name: 2.9 * value for name, value in shown.items()})
    like = _liked(random, lift)
    comparisons = [
        *_comparisons(random, "day", day, "nothing", lift["oracle"] if simulated else None),
        *_comparisons(random, "to_date", to_date, "nothing", None),
        *_comparisons(random, "week", week, "nothing", None),
        *_comparisons(random, "alone", alone, "nothing", None),
        *_comparisons(random, "day", day, "decay", None),
        *_comparisons(random, "week", week, "decay", None),
    ]
    data = {
        "description": "MovieTweetings: films stand in for jobs (a proxy domain)",
        "events": 79570,
        "members": 13244,
        "items": 10506,
        "from": "2013-02-28T14:38:27+00:00",
        "until": "2014-09-01T00:00:00+00:00",
        "events_fingerprint": "5f1c9c33a2b14dcf8f6c3a6be0b0cf11",
        "vector_spec": {
            "name": "content_and_behaviour",
            "version": "2",
            "dimension": 64,
            "fingerprint": "c0ffee12d34db33f",
        },
    }
    if simulated:
        data["description"] = (
            "a generator of members whose interests move from item family to family"
        )
    return {
        "schema": 1,
        "title": "Does it help? Activity embeddings in an item ranker",
        "created": "2026-02-03T09:12:44Z",
        "seconds": 312.4,
        "simulated": simulated,
        "as_of": "request" if simulated else "published",
        "data": data,
        "timeline": {
            "learn_until": "2014-05-01T00:00:00+00:00",
            "rank_from": "2014-05-01T00:00:00+00:00",
            "test_from": "2014-07-15T00:00:00+00:00",
            "until": "2014-09-01T00:00:00+00:00",
            "publishing_delay_minutes": 30,
            "snapshot_interval_hours": 24,
        },
        "declared": {
            "task": "day",
            "figure": "ndcg_at_10",
            "resamples": 10000,
            "confidence": 0.95,
            "seeds": list(SEEDS),
            "correction": "Holm",
            "power": 0.8,
            "margin": 0.004,
        },
        "arms": [
            {
                "name": name,
                "title": title,
                "role": role,
                "vectors": vectors,
                "features": 14 + values + 3 * vectors,
                "bytes_per_member": 4 * values,
                "disk_bytes_per_member": round(3.41 * values + 21.3 * (values > 0), 1),
                "version": "1" if role != "base" else None,
                "fingerprint": f"{abs(hash_of(name)):016x}" if role != "base" else None,
                "trained": "2013-02-28 to 2014-05-01" if role == "learned" else None,
            }
            for name, title, role, _, vectors, values in arms
        ],
        "tasks": {
            "day": {
                "title": "Rank the item that the member went on to want, among all of that day",
                "queries": 7012,
                "members": 3518,
                "candidates": {"median": 281, "max": 423},
                "base_features": ["positives", "days_since_activity", "popularity_of_the_week"],
                "figures": day,
            },
            "to_date": {
                "title": "The same with fewer base features",
                "queries": 7012,
                "members": 3518,
                "candidates": {"median": 281, "max": 423},
                "base_features": ["positives", "days_since_activity"],
                "figures": to_date,
            },
            "week": {
                "title": "The same among all items of that week",
                "queries": 7012,
                "members": 3518,
                "candidates": {"median": 1207, "max": 1611},
                "figures": week,
            },
            "alone": {
                "title": "The same without a ranker",
                "queries": 7012,
                "members": 3518,
                "candidates": {"median": 281, "max": 423},
                "figures": alone,
            },
            "like": {
                "title": "Tell an item that is liked from one that is dismissed",
                "rows": 9120,
                "members": 3711,
                "figures": like,
            },
        },
        "comparisons": comparisons,
        "checks": _checks(simulated),
        "slices": _slices(random, names[1:], lift),
        "quality": {
            name: {
                "recall_at_10": 0.03 + 2.1 * max(lift[name], 0),
                "interest_entropy_at_50": 1.4 + random.uniform(0, 1),
                "p90_coverage_at_10": 0.2 + random.uniform(0, 0.3),
                "norm_p10": 0.41 + random.uniform(0, 0.1),
                "norm_p50": 0.71 + random.uniform(0, 0.1),
                "norm_p90": 0.95 + random.uniform(0, 0.1),
                "empty_share": 0.084,
            }
            for name in names[1:]
        },
        "freshness": _freshness(random),
        "decay_searches": [
            {
                "arm": arm,
                "figure": "validation NDCG@10",
                "points": [
                    {
                        "r": r,
                        "value": 0.284 - 0.09 * (r - best) ** 2 - 0.2 * max(r - best, 0) ** 1.5,
                    }
                    for r in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
                ],
                "best": best,
            }
            for arm, best in (("decay", 0.9), ("single_decay", 0.8))
        ],
        "training_curves": [
            {
                "model": name,
                "epochs": [
                    {
                        "loss": 1.1 + 2.4 * 0.7**epoch,
                        "ndcg_at_10": 0.28 - 0.06 * 0.6**epoch - 0.0004 * max(epoch - 7, 0),
                    }
                    for epoch in range(1, 13)
                ],
            }
            for name in ("cnn", "gru", "transformer")
        ],
        "sequence_lengths": [
            {"length": length, "queries": int(1900 * 0.88**length) + (900 if length == 32 else 0)}
            for length in range(1, 33)
        ],
        "targets": [
            {"claim": "a difference to nothing of .004 or more", "reached": True, "says": None},
            {
                "claim": "a mean above nothing by .02",
                "reached": False,
                "says": "cnn: +.0112; the interval ends below .02",
            },
            {"claim": "under 1 KiB a member", "reached": True, "says": "cnn: 256 bytes"},
        ],
        "conclusions": [
            "Activity embeddings help this ranker: four of seven kinds beat nothing after "
            "correction.",
            "The CNN is not shown to be better than geometric decay; decay needs no training.",
            "The placebo does nothing, so the gain is that of the member's own activity.",
        ],
        "commands": [
            "activity-embeddings evaluate --repo feature_repo --out evaluation --seeds 5",
            "activity-embeddings report evaluation/report.json",
        ],
        "versions": {
            "python": "3.11.9",
            "feast": "0.67.0",
            "tensorflow": "2.21.0",
            "lightgbm": "4.6.0",
        },
    }


def hash_of(name: str) -> int:
    """Return a number that is the same in every process, unlike `hash`."""
    return int.from_bytes(name.encode().ljust(8, b"~")[:8], "big")


def _ranked(random: np.random.Generator, base: float, lift: dict[str, float]) -> dict[str, Any]:
    figures = {}
    for name, gain in lift.items():
        by_seed = [float(value) for value in base + gain + random.normal(0, 0.0005, len(SEEDS))]
        figure = float(np.mean(by_seed))
        figures[name] = {
            "ndcg_at_10": figure,
            "recall_at_10": 1.74 * figure + 0.011,
            "mrr": 0.86 * figure + 0.004,
            "by_seed": by_seed,
            "seed_spread": float(np.std(by_seed)),
        }
    return figures


def _liked(random: np.random.Generator, lift: dict[str, float]) -> dict[str, Any]:
    figures = {}
    for name, gain in lift.items():
        by_seed = [float(value) for value in 0.702 + gain + random.normal(0, 0.001, len(SEEDS))]
        figures[name] = {
            "auc": float(np.mean(by_seed)),
            "log_loss": 0.561 - 0.6 * gain,
            "within_member_auc": 0.611 + 1.2 * gain,
            "by_seed": by_seed,
            "seed_spread": float(np.std(by_seed)),
        }
    return figures


def _comparisons(
    random: np.random.Generator,
    task: str,
    figures: dict[str, Any],
    against: str,
    possible: float | None,
) -> list[dict[str, Any]]:
    rows = []
    base = figures[against]["ndcg_at_10"]
    for arm in figures:
        if arm in (against, "nothing"):
            continue
        difference = figures[arm]["ndcg_at_10"] - base
        half = float(random.uniform(0.0034, 0.0044))
        real = abs(difference) > half * 1.3
        rows.append(
            {
                "task": task,
                "figure": "ndcg_at_10",
                "arm": arm,
                "against": against,
                "difference": difference,
                "low": difference - half,
                "high": difference + half * 1.04,
                "p": 0.0001 if real else 0.2172,
                "p_holm": 0.0007 if real else 0.8688,
                "real": real,
                "relative": difference / base,
                "share_of_possible": difference / possible if possible else None,
                "minimum_detectable_effect": half * 1.43,
            }
        )
    return rows


def _checks(simulated: bool) -> list[dict[str, Any]]:
    checks = [
        {
            "name": "A/A",
            "passed": True,
            "says": "The arm nothing against itself with other seeds: +.0001 [-.0008, +.0010].",
        },
        {
            "name": "placebo",
            "passed": True,
            "says": "The embedding of another member: -.0007 [-.0045, +.0032].",
        },
        {
            "name": "item-only floor",
            "passed": False,
            "says": "A ranker that sees items alone reaches .1391, less than .01 under nothing.",
        },
        {
            "name": "leak canary",
            "passed": True,
            "says": "An embedding that was told the answer is found out: NDCG@10 .9981.",
        },
    ]
    if simulated:
        checks.append(
            {"name": "oracle", "passed": True, "says": "The true interests lift by +.0312."}
        )
    return checks


def _slices(
    random: np.random.Generator, arms: list[str], lift: dict[str, float]
) -> list[dict[str, Any]]:
    kinds = (
        ("history", "new (1-3 activities)", 1410, 1.6),
        ("history", "light (4-15 activities)", 1290, 1.0),
        ("history", "heavy (16 and more)", 818, 0.5),
        ("embedding age", "under 12 hours", 1811, 1.2),
        ("embedding age", "12 hours and more", 1707, 0.8),
        ("interests moved", "little", 1759, 0.9),
        ("interests moved", "much", 1759, 1.3),
    )
    slices = []
    for kind, value, members, factor in kinds:
        differences = []
        for arm in arms:
            middle = lift[arm] * factor + float(random.normal(0, 0.0008))
            half = 0.23 / members**0.5
            differences.append(
                {
                    "arm": arm,
                    "against": "nothing",
                    "difference": middle,
                    "low": middle - half,
                    "high": middle + half,
                }
            )
        slices.append(
            {
                "slice": kind,
                "value": value,
                "members": members,
                "queries": 2 * members + 11,
                "differences": differences,
            }
        )
    return slices


def _freshness(random: np.random.Generator) -> dict[str, Any]:
    points = []
    lags = ("1 minute", 60), ("1 hour", 3600), ("6 hours", 21600), ("1 day", 86400)
    for lag, seconds in (*lags, ("3 days", 259200), ("7 days", 604800), ("28 days", 2419200)):
        difference = 0.0174 - 0.0027 * float(np.log10(seconds)) + float(random.normal(0, 0.0002))
        points.append(
            {
                "lag": lag,
                "seconds": seconds,
                "ndcg_at_10": 0.1499 + difference,
                "recall_at_10": 0.2602 + 1.7 * difference,
                "mrr": 0.1301 + 0.9 * difference,
                "auc": 0.702 + difference,
                "log_loss": 0.561 - 0.6 * difference,
                "within_member_auc": 0.611 + 1.2 * difference,
                "difference": difference,
                "low": difference - 0.0039,
                "high": difference + 0.0041,
            }
        )
    return {"arm": "cnn", "points": points}
