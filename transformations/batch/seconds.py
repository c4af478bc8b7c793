"""How long the stages of a run take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Seconds(dict[str, float]):
    """Seconds by the name of a stage."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the body to those of a name."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - started})

    def add(self, others: Mapping[str, float]) -> None:
        """Add the seconds of other stages, or of the same ones."""
        for name, spent in others.items():
            self[name] = self.get(name, 0.0) + spent
