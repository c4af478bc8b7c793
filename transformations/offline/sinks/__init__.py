"""The places where snapshots lie; see `base`."""
