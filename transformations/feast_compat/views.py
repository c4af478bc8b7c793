"""Feature views that differ in an attribute; seen in Feast 0.67.

`FeatureView.__copy__` builds a plain view anew, whatever the class.
"""

from typing import Any

from feast import FeatureView


def changed_view(view: FeatureView, **attributes: Any) -> FeatureView:
    """Return a view with other values of some attributes; what these were is left as it is."""
    copied = object.__new__(type(view))
    copied.__dict__.update(view.__dict__, **attributes)
    return copied
