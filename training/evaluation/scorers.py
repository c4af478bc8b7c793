"""What scores items by itself, without a vector: tables of counts, and models of others.

Such a model is an arm like any other. It answers the same queries about the same candidates, alone
and as columns of the same ranker, and once more with the candidate's vectors beside it: whether an
embedding adds to what scores items already.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from activity_embeddings.training.evaluation.data import Data
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.errors import InvalidInput

NOT_THEIRS = (
    str(Path(__file__).parents[2]),
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    "<",
)
"""How paths of code start that is not a user's own: this package, Python, libraries, no file."""


class Scorer(Protocol):
    """Says of each row of queries how much its item is to be recommended to its member."""

    def columns(self, sequences: Sequences, queries: Queries) -> np.ndarray:
        """Return the ranker's columns of each row.

        Parameters
        ----------
        sequences
            What is known of the member of each query, of n queries: activity before the query, or
            before the daily run that had published before it. Nothing later may be used.
        queries
            Whose R rows these are, those of query i at `start[i]:start[i + 1]`; `query` has the
            query of each row, and `item` its item. The labels, `target`, are all 0.

        Returns
        -------
        float32 [R, k]
            Finite. The first column is the score that is measured without a ranker: within a query,
            what is more is better.
        """
        ...


def load_scorer(name: str, path: str, data: Data) -> ScoringModel:
    """Return a user's model that scores items.

    Parameters
    ----------
    name
        Name of its arm.
    path
        `module:name` of what makes the scorer, a class or a function that gets `data`.
    data
        What is evaluated on: its history says which ids the queries' positions are of.

    Raises
    ------
    InvalidInput
        There is no such thing, it raises, or what it makes has no method `columns`.
    """
    expected = f"--scorer {name}={path}: expected MODULE:NAME of a class or function"
    module, _, attribute = path.partition(":")
    try:
        make: Callable[[Data], Any] = getattr(import_module(module), attribute)
    except Exception as error:
        raise InvalidInput(f"{expected} that can be imported. Received: {_said(error)}") from error
    try:
        scorer = make(data) if callable(make) else None
    except Exception as error:
        raise InvalidInput(f"{expected} that gets the data. Received: {_said(error)}") from error
    if not callable(getattr(scorer, "columns", None)):
        raise InvalidInput(
            f"{expected} that gets the data and returns a scorer, with a method `columns`. "
            f"Received: {make!r}, which does not"
        )
    return ScoringModel(name, f"scores of {path}", (scorer,))


def _said(error: Exception) -> str:
    """Return what was raised, with the last line of a user's own code that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(NOT_THEIRS)]
    where = f", {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
    return f"{type(error).__name__}: {error}{where}"


@dataclass(frozen=True)
class ScoringModel:
    """A model that scores items, to be compared: one scorer, or one for each seed of its training.

    Parameters
    ----------
    name
        Name of its arm.
    title
        For people.
    scorers
        One, or a different one for each seed. They must have learned before the ranker's first
        day: unlike a packaged model, a scorer has no manifest that says so.
    """

    name: str
    title: str
    scorers: tuple[Scorer, ...]

    def columns(self, sequences: Sequences, queries: Queries, seed: int) -> np.ndarray:
        """Return the columns of the scorer of one seed, by its position among the seeds.

        Raises
        ------
        InvalidInput
            They are not finite numbers, at least one for each row, or the scorer raises.
        """
        scorer = self.scorers[seed if len(self.scorers) > 1 else 0]
        unlabelled = replace(queries, target=np.zeros_like(queries.target))
        rows = len(queries.item)
        expected = (
            f"scores of {self.name!r}: expected finite numbers [{rows}, k], k columns for each row "
            "of the queries. Received: "
        )
        try:
            columns = np.asarray(scorer.columns(sequences, unlabelled))
        except Exception as error:
            raise InvalidInput(expected + _said(error)) from error
        right = columns.ndim == 2 and columns.shape[0] == rows and columns.shape[1] > 0
        if not right or columns.dtype.kind not in "fiu" or not np.isfinite(columns).all():
            raise InvalidInput(
                f"{expected}{columns.dtype} {list(columns.shape)}"
                + (", some of them not finite" if right and columns.dtype.kind == "f" else "")
            )
        return columns.astype(np.float32)
