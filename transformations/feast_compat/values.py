"""How Feast turns Python values into protobuf ones; seen in Feast 0.67.

Its stores and its server convert by this function, so that it says what they take, and what they
fail on.
"""

from feast.type_map import python_values_to_proto_values

__all__ = ["python_values_to_proto_values"]
