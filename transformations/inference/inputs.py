"""What models read of sequences beside item vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

from activity_embeddings.transformations import names


class Inputs(NamedTuple):
    """What models read of n sequences beside item vectors.

    Attributes
    ----------
    actions
        int32 [n, L].
    ages
        float32 [n, L].
    sessions
        int32 [n, L].
    """

    actions: Any
    ages: Any
    sessions: Any

    def part(self, rows: Any) -> Inputs:
        """Return the inputs of some rows, an index or a slice."""
        return Inputs(*(values[rows] for values in self))

    def by_name(self) -> dict[str, Any]:
        """Return the inputs by their names."""
        return {
            names.INPUT_ACTIONS: self.actions,
            names.INPUT_AGES: self.ages,
            names.INPUT_SESSIONS: self.sessions,
        }
