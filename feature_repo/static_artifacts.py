"""What `feast serve` loads before its first request: TensorFlow, every model, the vector table."""

import gc
from pathlib import Path
from typing import Any


def load_artifacts(app: Any) -> None:
    """Feast calls this when a server starts."""
    from activity_embeddings import check_requests, preload

    check_requests(app)
    try:
        preload(Path(__file__).parent)
    finally:
        # What is loaded stays: the garbage collector need not walk through it, which would hold
        # up a request for a quarter of a second every now and then.
        gc.collect()
        gc.freeze()
