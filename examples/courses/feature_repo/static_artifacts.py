"""What `feast serve` does before its first request."""

from pathlib import Path
from typing import Any


def load_artifacts(app: Any) -> None:
    """Feast calls this when a server starts: models and item vectors are loaded, or it ends."""
    from activity_embeddings import start_serving

    start_serving(app, Path(__file__).parent)
