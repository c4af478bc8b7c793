"""What `feast serve` loads before its first request: TensorFlow, every model, the vector table."""

from pathlib import Path
from typing import Any


def load_artifacts(app: Any) -> None:
    """Feast calls this when a server starts."""
    from transformations.serving import preload

    preload(Path(__file__).parent)
