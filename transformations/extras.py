"""What the extras of the package install, and how one that is missing is named."""

from __future__ import annotations

from importlib.util import find_spec

from activity_embeddings.transformations.errors import MissingExtra

_TRAIN = ("matplotlib", "optuna", "scipy", "sklearn", "tensorboard", "threadpoolctl")

MODULES = {
    "train": _TRAIN,
    "evaluate": (*_TRAIN, "jinja2", "lightgbm"),
    "iceberg": ("pyiceberg",),
    "ray": ("ray",),
    "redis": ("redis",),
    "spark": ("pyspark",),
    "postgres": ("adbc_driver_postgresql", "psycopg", "psycopg_pool"),
}
"""Modules that the core does without, by the extra that installs them."""


def require_extra(extra: str, what: str) -> None:
    """Raise `MissingExtra` unless every module of an extra is installed.

    Asked for before any of them is imported, so that the message comes at once, and not from the
    middle of a training run.

    Parameters
    ----------
    extra
        Name of the extra.
    what
        What needs it, for the message.
    """
    missing = [name for name in MODULES[extra] if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{what}: expected the packages of the extra {extra!r}. Received: an environment "
            f"without {', '.join(missing)}. Run pip install 'activity-embeddings[{extra}]'"
        )
