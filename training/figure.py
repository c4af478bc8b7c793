"""The figure that models are chosen and judged by: NDCG@10 of the item that a member wanted."""

from __future__ import annotations

from typing import Final

TOP: Final = 10
"""Places of a list that count."""
FIGURE: Final = "ndcg_at_10"
"""What results, manifests and tables call it."""
MARGIN: Final = 0.004
"""How much lower it may be and still count as not worse."""
