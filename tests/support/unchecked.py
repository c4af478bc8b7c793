"""Feast without typeguard, which checks the type of every argument: import this before Feast.

Feast is the same under `PYTHONOPTIMIZE`, with which `docs/how-to/deploy.md` starts it. Tests would
spend a twelfth of their time on it. That variable would also take assertions out of helpers.
"""

import typeguard


def typechecked(target=None, **_):
    """Return a function or class as it is."""
    return target or typechecked


typeguard.typechecked = typechecked
