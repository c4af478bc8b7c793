"""How sure is a difference of two means over members: interval, p value, correction and power.

The figure that decides is a mean over members, so that members are what is resampled and the mean
is what is tested. Wilcoxon's signed ranks and the sign test are left out on purpose: they ask
whether the differences lie around 0 symmetrically, or their median, which can be "significant"
while the mean does not move, or even moves the other way; differences of NDCG, mostly 0 with a
few large ones, are the case in point. Smucker, Allan and Carterette (CIKM 2007) found that the
bootstrap agrees with the tests of the mean and that the other two mislead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.wording import out_of

RESAMPLES = 10_000
CONFIDENCE = 0.95
POWER = 0.8
DRAWS = 1_000_000
"""Members drawn at once, over all resamples of a block; bounds the memory to some 30 MB."""
ESTIMATES = 20
"""Deviations of the seeds that a chance of finding something is averaged over."""
ROUNDING = 1e-12
"""Means and errors this small, as a share of the largest difference, are 0 but for rounding."""


@dataclass(frozen=True)
class Difference:
    """A mean difference over members, with what the bootstrap says of it.

    Attributes
    ----------
    difference
        Mean over members.
    low, high
        Ends of the percentile interval.
    p
        float in (0, 1]. Two-sided, not corrected for the number of arms: see `holm`.
    member_error
        Standard error of the mean over members.
    seed_error
        Standard error of the mean over seeds, 0 for a single one.
    """

    difference: float
    low: float
    high: float
    p: float
    member_error: float
    seed_error: float

    def text(self) -> str:
        """Return the difference and its interval, as sentences have it."""
        return interval_text(self.difference, self.low, self.high)


def interval_text(difference: float, low: float, high: float) -> str:
    """Return a difference with the ends of its interval, as sentences have it."""
    return f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]"


def paired_bootstrap(
    values: np.ndarray,
    against: np.ndarray,
    *,
    by_seed: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Difference]:
    """Compare each arm with its baseline, by members drawn with replacement.

    The percentile bootstrap of Efron and Tibshirani (1993, chapter 13). Every resample draws as
    many members as there are, the same ones for all arms. With B resampled means d*,

        p = min(1, 2 min(1 + #{d* <= 0}, 1 + #{d* >= 0}) / (B + 1)),

    where the ones stand for the sample itself, so that p is never 0 (Davison and Hinkley 1997,
    section 4.2). Below some 30 members the interval is too narrow.

    Parameters
    ----------
    values
        float [members, arms].
    against
        float [members, arms], or [members] where all arms have the same baseline.
    by_seed
        float [seeds, arms], or None. The mean difference of each seed of what was fitted, where
        `values` are means over these seeds. Members drawn again say nothing of other seeds: two
        runs of one arm would differ "for certain". So each resampled mean gets a deviation too, of
        Student's t with one degree of freedom less than there are seeds.
    resamples
        int, 2 or more.
    confidence
        float in (0, 1). Of the interval.
    seed
        Same seed and same order of members, same result; another order of members is another draw,
        as good as this one.

    Returns
    -------
    list of Difference
        One an arm, of `values - against`. An arm equal to its baseline has 0, [0, 0] and p 1.

    Raises
    ------
    InvalidInput
        Shapes do not fit, a value is not finite, there are fewer than 2 members, or a setting is
        out of its range.
    """
    differences = _differences(values, against)
    if resamples < 2:
        raise InvalidInput(f"`resamples` should be 2 or more. Received: {resamples}")
    _check_share("confidence", confidence)
    means = _resampled_means(differences, resamples, seed)
    member_error, seed_error = means.std(axis=0, ddof=1), np.zeros(means.shape[1])
    if by_seed is not None and len(by_seed) > 1:
        by_seed = np.asarray(by_seed, np.float64)
        means += _seed_deviations(by_seed, resamples, seed)
        seed_error = by_seed.std(axis=0, ddof=1) / np.sqrt(len(by_seed))
    rounding = ROUNDING * np.abs(differences).max(axis=0)
    means[np.abs(means) <= rounding] = 0.0
    member_error, seed_error = (
        np.where(error <= rounding, 0.0, error) for error in (member_error, seed_error)
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    tail = np.minimum((means <= 0).sum(axis=0), (means >= 0).sum(axis=0)) + 1
    p = np.minimum(2 * tail / (resamples + 1), 1.0)
    columns = differences.mean(axis=0), low, high, p, member_error, seed_error
    return [Difference(*map(float, row)) for row in zip(*columns, strict=True)]


def _differences(values: np.ndarray, against: np.ndarray) -> np.ndarray:
    """Return `values - against`, float64 [members, arms], checked."""
    values, against = np.asarray(values, np.float64), np.asarray(against, np.float64)
    if values.ndim != 2 or against.shape not in (values.shape, values.shape[:1]):
        raise InvalidInput(
            "bootstrap: `values` should be [members, arms] and `against` [members, arms] or "
            f"[members]. Received: {list(values.shape)} and {list(against.shape)}"
        )
    if len(values) < 2:
        raise InvalidInput(f"bootstrap: expected 2 members or more. Received: {len(values)}")
    differences = values - (against[:, None] if against.ndim == 1 else against)
    if not np.isfinite(differences).all():
        raise InvalidInput(
            "bootstrap: every member should have a finite value in every arm. Received: "
            f"{out_of(int((~np.isfinite(differences)).any(axis=1).sum()), len(values), 'member')} "
            "without"
        )
    return differences


def _seed_deviations(by_seed: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Draw by how much the mean over few seeds may be off: Student's t, for each arm by itself."""
    seeds, arms = by_seed.shape
    drawn = np.random.default_rng([seed, seeds]).standard_t(seeds - 1, size=(resamples, arms))
    return drawn * by_seed.std(axis=0, ddof=1) / np.sqrt(seeds)


def _resampled_means(differences: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the means of members drawn with replacement, float64 [resamples, arms].

    How often each member was drawn is counted, so that a block of resamples is one product of
    matrices for all arms.
    """
    members, arms = differences.shape
    random = np.random.default_rng(seed)
    means = np.empty((resamples, arms))
    block = max(1, DRAWS // members)
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        drawn = random.integers(members, size=(rows, members))
        drawn += np.arange(rows)[:, None] * members
        counts = np.bincount(drawn.ravel(), minlength=rows * members).reshape(rows, members)
        means[first : first + rows] = counts.astype(np.float64) @ differences
    return means / members


def holm(p: ArrayLike) -> np.ndarray:
    """Return p values adjusted for their number, by Holm (1979).

    The i-th smallest of m is multiplied by m - i + 1; none may be below one that was smaller. To
    reject what is at most 0.05 keeps the chance of any false rejection at 5 %.

    Parameters
    ----------
    p
        float [m].

    Returns
    -------
    float64 [m]
        In the order given, at most 1.

    Raises
    ------
    InvalidInput
        A value is not in [0, 1].
    """
    given = np.asarray(p, np.float64)
    if given.ndim != 1 or not ((given >= 0) & (given <= 1)).all():
        raise InvalidInput(f"`p` should be a list of values in [0, 1]. Received: {given.tolist()}")
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def minimum_detectable_effect(
    member_error: float,
    seed_error: float = 0.0,
    *,
    seeds: int = 1,
    comparisons: int = 1,
    power: float = POWER,
    confidence: float = CONFIDENCE,
) -> float | None:
    """Return the true difference that `paired_bootstrap` finds with the chance `power`.

    With one seed `(z[1 - a/2] + z[power]) * member_error`, a = (1 - confidence) / comparisons
    (Bloom 1995). With several, the interval is as wide as the quantiles of a normal deviation and
    Student's t together, with a width that the seeds estimate, and the chance is the mean over
    what they may say. What an evaluation of this size could have seen: an interval around 0 says
    nothing of smaller differences. None without any error, as of an arm equal to its baseline: that
    members do not differ says nothing of how much they would if the arms did.

    Parameters
    ----------
    member_error, seed_error
        Standard errors, as in `Difference`.
    seeds
        Number of seeds.
    comparisons
        Pairs that are corrected for together: the chance is that of being found by the first step
        of Holm's correction, whatever the other pairs show.
    power, confidence
        float in (0, 1).

    Raises
    ------
    InvalidInput
        A standard error is negative or not finite, a count is below 1, or a share is not between
        0 and 1.
    """
    _check_share("power", power)
    _check_share("confidence", confidence)
    for name, error in (("member_error", member_error), ("seed_error", seed_error)):
        if not 0 <= error < float("inf"):
            raise InvalidInput(f"`{name}` should be 0 or more. Received: {error}")
    for name, count in (("seeds", seeds), ("comparisons", comparisons)):
        if count < 1:
            raise InvalidInput(f"`{name}` should be 1 or more. Received: {count}")
    if member_error == 0 and (seeds == 1 or seed_error == 0):
        return None
    # Here, since it takes a second to import, and an interval needs none of it.
    from scipy import optimize, stats

    tail = (1 - confidence) / comparisons / 2
    if seeds == 1 or seed_error == 0:
        return float((stats.norm.isf(tail) + stats.norm.ppf(power)) * member_error)
    freedom = seeds - 1
    # What the seeds of an evaluation may estimate of their true deviation, equally likely.
    shares = (np.arange(ESTIMATES) + 0.5) / ESTIMATES
    estimated = seed_error * np.sqrt(stats.chi2.ppf(shares, freedom) / freedom)
    ends = _ends(member_error, estimated, freedom, tail)
    spread = float(np.hypot(member_error, seed_error))

    def lacking(difference: float) -> float:
        return float(stats.norm.cdf((difference - ends) / spread).mean()) - power

    return float(optimize.brentq(lacking, -10 * spread, ends.max() + 10 * spread))


def _ends(member_error: float, seed_errors: np.ndarray, freedom: int, tail: float) -> np.ndarray:
    """Return what a normal deviation plus Student's t exceeds with the chance `tail`, float [n]."""
    from scipy import optimize, special, stats

    normal = np.linspace(-8, 8, 801)
    weights = stats.norm.pdf(normal)
    weights /= weights.sum()
    # One of the two exceeds its part of this with half the chance each.
    of_members, of_seeds = stats.norm.isf(tail / 2), stats.t.isf(tail / 2, freedom)

    def end(seed_error: float) -> float:
        def lacking(end: float) -> float:
            t = (end - member_error * normal) / seed_error
            # As `stats.t.sf`, which takes longer to check what it is given.
            return float(weights @ special.stdtr(freedom, -t)) - tail

        most = member_error * of_members + seed_error * of_seeds
        return float(optimize.brentq(lacking, 0.0, most))

    return np.array([end(error) for error in seed_errors])


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InvalidInput(f"`{name}` should be between 0 and 1. Received: {value}")
