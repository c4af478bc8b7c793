"""What each embedding finds by itself, as of the request: the first figure of a new model.

Every positive activity of the test is a query: among all items of that day, in which place does the
embedding put the item that the member wanted next, given all that the member did until that moment?
It takes seconds and no ranker. Two tables of counts stand beside the embeddings, the look-ups that
a learned vector has to beat (see `NextItemCounts`). What an embedding adds to a ranker that knows
more than popularity is another question, which `evaluate` answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from activity_embeddings.training.evaluation.arms import (
    ITEM_ACTION_COUNTS,
    ITEM_COUNTS,
    ArmRole,
)
from activity_embeddings.training.evaluation.contenders import EvaluatedModel, require_earlier
from activity_embeddings.training.evaluation.mixing import Mix, best_mix
from activity_embeddings.training.evaluation.next_item_counts import NextItemCounts
from activity_embeddings.training.evaluation.statistics import Difference, paired_bootstrap
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.validation import Scored, ValidationQueries
from activity_embeddings.training.outputs import negative_outputs
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.wording import counted

POPULARITY = "popularity"


@dataclass(frozen=True)
class Finding:
    """What one embedding finds.

    Attributes
    ----------
    name
        Of the model or of the table of counts, or `POPULARITY`.
    ndcg
        Mean over members of their NDCG@10.
    above
        Difference from the one before it, paired by member; None of the first.
    """

    name: str
    ndcg: float
    above: Difference | None


@dataclass(frozen=True)
class FirstLook:
    """The findings of all embeddings, in order.

    Attributes
    ----------
    queries, members
        Numbers of queries and of their members.
    test
        The days of the queries.
    findings
        Popularity first; the tables of counts stand before the first learned model.
    """

    queries: int
    members: int
    test: Period
    findings: Sequence[Finding]

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = [
            f"NDCG@10 of what {counted(self.members, 'member')} wanted next among all items of the "
            f"day, in {counted(self.queries, 'query')}",
            f"from {self.test.start:%F} to before {self.test.end:%F}, as of the request; above the "
            "row before, with 95 % intervals",
        ]
        for finding in self.findings:
            above = "" if finding.above is None else f"  {finding.above.text()}"
            lines.append(f"  {finding.name:{width}}  {finding.ndcg:.4f}{above}")
        return "\n".join(lines)


def first_look(
    history: ActivityHistory,
    vector_spec: ItemVectorSpec,
    models: Sequence[EvaluatedModel],
    *,
    choose: Period,
    test: Period,
) -> FirstLook:
    """Measure the embedding of each model beside popularity, as of the request.

    Several vectors of a model are added, each by the weight that is best on the days of `choose`,
    those of actions that are not positive too (see `best_mix`). The tables count all activity
    before the test, which is no less than what any model learned from. How much they count beside
    popularity is chosen with tables of what is before `choose`.

    Parameters
    ----------
    history
        All activity, and item vectors.
    vector_spec
        Which item vectors these are.
    models
        In the order of the table, each with one SavedModel.
    choose
        The days on which it is chosen how much each vector counts, and popularity beside them.
    test
        The days that are measured.

    Raises
    ------
    InvalidInput
        A model does not fit, has several SavedModels, or may have learned from labels of the test;
        the days to choose on do not end before it; or one of the periods has no query.
    """
    if choose.end > test.start:
        raise InvalidInput(
            f"first look: expected days to choose on that end before {test.start}, where the test "
            f"starts. Received: until {choose.end}"
        )
    for each in models:
        if len(each.paths) != 1:
            raise InvalidInput(
                f"model {each.name!r}: expected one SavedModel. Give others a name of their own. "
                f"Received: {len(each.paths)}"
            )
    described = [each.describe(history.spec, vector_spec)[0] for each in models]
    for model in described:
        require_earlier(model.name, model.manifest, test.start, "it is tested")
    embedder = Embedder(described)
    chosen_on, asked = (ValidationQueries.of(history, period) for period in (choose, test))

    early, late = (embedder(each.sequences, history.vectors) for each in (chosen_on, asked))
    nothing = np.zeros((len(asked), vector_spec.dimension), np.float32)
    counts = {
        name: [
            NextItemCounts.of(history, period.start, by_action=by_action)
            for period in (choose, test)
        ]
        for name, by_action in ((ITEM_COUNTS, False), (ITEM_ACTION_COUNTS, True))
    }
    learned = [model.role == ArmRole.LEARNED for model in models]
    first = [*learned, True].index(True)
    rows = [*late]
    rows[first:first] = counts
    columns = [asked.ndcg_of_members(nothing, 0.0)]
    for name in rows:
        if name in counts:
            before, until = counts[name]
            scores = before.scores(chosen_on), until.scores(asked)
            share = chosen_on.measure_scores(scores[0])["share"]
            columns.append(asked.ndcg_by_scores(scores[1], share))
        else:
            mix = best_mix_of(chosen_on, early[name])
            columns.append(asked.ndcg_of_members(added(late[name], mix.weights), mix.share))
    values = np.stack(columns, axis=1)
    above = paired_bootstrap(values[:, 1:], values[:, :-1])
    findings = [
        Finding(name, float(mean), difference)
        for name, mean, difference in zip(
            [POPULARITY, *rows], values.mean(axis=0), [None, *above], strict=True
        )
    ]
    return FirstLook(len(asked), len(values), test, findings)


def best_mix_of(queries: ValidationQueries, vectors: Mapping[str, np.ndarray]) -> Mix:
    """Return how a model's vectors are best added on some queries.

    Parameters
    ----------
    queries
        N of them.
    vectors
        The vectors of the queries by output, float32 [n, D] each.
    """

    @lru_cache(maxsize=1)
    def scored(weights: tuple[float, ...]) -> Scored:
        """Return the scores by some weights, which several shares are tried with."""
        return queries.scored(queries.products(added(vectors, weights)))

    def figure(mix: Mix) -> float:
        return float(scored(mix.weights).ndcg_of_members(mix.share).mean())

    negative = negative_outputs(queries.history.spec)
    return best_mix(figure, [name not in negative for name in vectors])


def added(vectors: Mapping[str, np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the weighted sum of a model's vectors, float32 [n, D]."""
    return np.tensordot(np.array(weights, np.float32), np.stack(list(vectors.values())), axes=1)
