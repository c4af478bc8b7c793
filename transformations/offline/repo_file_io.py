"""How pyiceberg finds files that an Iceberg table names by their paths within a feature repo.

Iceberg tables hold the paths of their files. In a local warehouse of the repo these are relative,
so that a repo that is moved goes on working. pyiceberg takes such paths from where it runs.
"""

from __future__ import annotations

from pathlib import Path

from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.typedef import EMPTY_DICT, Properties

from activity_embeddings.transformations.files import path_within
from activity_embeddings.transformations.offline.iceberg import REPO


class RepoFileIO(PyArrowFileIO):
    """Files of Arrow; a relative path is one of the feature repo, and stays in it."""

    @staticmethod
    def parse_location(location: str, properties: Properties = EMPTY_DICT) -> tuple[str, str, str]:
        """Return scheme, host and path."""
        if ":" not in location.partition("/")[0]:
            location = str(path_within(Path(properties[REPO]), location))
        return PyArrowFileIO.parse_location(location, properties)
