"""Names of a model's outputs: what each embedding is of."""

from __future__ import annotations

from activity_embeddings.transformations.spec import ActivitySpec

ACTIVITY_EMBEDDING = "activity_embedding"
"""The output of a model that gives one vector of the length of an item embedding."""


def output_name(action: str) -> str:
    """Return the output of one action: APPLY gives `apply_embedding`."""
    return f"{action.lower()}_embedding"


def negative_outputs(spec: ActivitySpec) -> set[str]:
    """Return the outputs of own actions that are not positive."""
    return {output_name(a) for a in set(spec.own_actions) - set(spec.positive_actions)}
