"""What a caller of `feast materialize` may ask beyond the interval, which Feast cannot pass on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from activity_embeddings.transformations.batch.guards import Guards
from activity_embeddings.transformations.errors import InvalidInput


@dataclass(frozen=True)
class RunOptions:
    """Options of one run.

    Attributes
    ----------
    accepted
        Guards that do not refuse.
    dry_run
        Whether to compute and judge alone: the stores stay as they are.
    """

    accepted: frozenset[str] = frozenset()
    dry_run: bool = False


_current: ContextVar[RunOptions] = ContextVar("options of a run")


def current_options() -> RunOptions:
    """Return the options of runs that begin here."""
    return _current.get(RunOptions())


@contextmanager
def run_options(*, accept: Collection[str] = (), dry_run: bool = False) -> Iterator[None]:
    """Set the options of `FeatureStore.materialize` in the body.

    Parameters
    ----------
    accept
        Names of guards, see `Guards`, that let through what they would refuse.
    dry_run
        See `RunOptions`.

    Raises
    ------
    InvalidInput
        There is no guard of that name.
    """
    unknown = sorted(set(accept) - set(Guards.model_fields))
    if unknown:
        raise InvalidInput(
            f"expected names of guards: {', '.join(Guards.model_fields)}. "
            f"Received: {', '.join(unknown)}"
        )
    token = _current.set(RunOptions(frozenset(accept), dry_run))
    try:
        yield
    finally:
        _current.reset(token)
