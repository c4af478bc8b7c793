"""How Feast turns Python values into protobuf and text, and back; seen in Feast 0.67.

Its stores and its server convert by these functions, so that they say what it takes, and what it
fails on.
"""

from feast.infra.online_stores.helpers import extract_text_and_num
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import (
    NULL_TIMESTAMP_INT_VALUE,
    feast_value_type_to_python_type,
    python_values_to_proto_values,
)

__all__ = [
    "NULL_TIMESTAMP",
    "feast_value_type_to_python_type",
    "python_values_to_proto_values",
    "searched_text",
]

NULL_TIMESTAMP = int(NULL_TIMESTAMP_INT_VALUE)
"""What a list has in the place of a missing time."""


def searched_text(value: Value) -> str | None:
    """Return what SQL stores keep beside a value, to be searched."""
    text, _ = extract_text_and_num(value, False)
    return text
