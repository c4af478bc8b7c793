"""What an item encoder is trained on: the sources of a feature repo, or files with such columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast import FeatureStore, FileSource

from activity_embeddings.training.repo_definitions import RepoDefinitions, read_definitions
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.definitions.tags import in_repo, spec_of
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.stores import offline_store
from activity_embeddings.transformations.names import DomainNames, Role, Tag
from activity_embeddings.transformations.offline.columns import (
    RowsAsked,
    names_there,
    source_names,
)
from activity_embeddings.transformations.offline.parquet_files import ParquetFiles
from activity_embeddings.transformations.offline.sources import read_events, read_postings
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import to_us

FOREVER = 2**63 - 1
"""Microseconds: later than any time."""


@dataclass(frozen=True)
class EncoderData:
    """Reads events and postings as a feature repo defines them, or as this package calls them.

    Parameters
    ----------
    repo
        Folder of the feature repo.
    definitions
        Definitions of the feature repo; None where the folder has none.
    item
        Name of the item's entity, where the feature repo has several domains.
    """

    repo: Path
    definitions: RepoDefinitions | None
    item: str | None = None

    @classmethod
    def of(cls, repo: Path, item: str | None = None) -> EncoderData:
        """Read the definitions in a folder; see `read_definitions`."""
        return cls(repo, read_definitions(repo), item)

    @property
    def names(self) -> DomainNames:
        """Names of the columns, those of the default domain where no events are defined."""
        found = self.definitions
        if found is None or not found.views.get(Role.EVENTS):
            return names.JOBS
        return DomainNames.of(found.view(Role.EVENTS, self.item).tags)

    @property
    def spec(self) -> ActivitySpec:
        """Window, length and actions of the feature repo, or the default ones."""
        # What a feature repo does not define has its default; what it fails to define is an error.
        found = self.definitions
        if found is None or not (found.views.get(Role.EVENTS) or found.raised):
            return ActivitySpec()
        return spec_of(found.view(Role.EVENTS, self.item))

    def folder(self) -> Path:
        """Return the folder of the encoder whose vectors the domain has, or is to have at first.

        Raises
        ------
        InvalidInput
            The domain has none yet, and another one's is where a first encoder would go.
        """
        vectors = self.definitions.views.get(Role.VECTORS, []) if self.definitions else []
        folders = {
            view.name: in_repo(view.tags[Tag.ENCODER_PATH], self.repo)
            for view in vectors
            if Tag.ENCODER_PATH in view.tags
        }
        first = self.repo / "models" / "item_encoder"
        own = folders.get(self.names.vectors_view)
        taken = [view for view, path in folders.items() if path.resolve() == first.resolve()]
        if own is None and taken:
            raise InvalidInput(
                f"expected --out, the folder of an encoder for {self.names.vectors_view}. "
                f"Received: none, and {first} is the encoder of {taken[0]}"
            )
        return own or first

    def events(self, file: Path | None, until: datetime) -> ActivityEvents:
        """Return the events before a time.

        Parameters
        ----------
        file
            Parquet file or folder; None: the source of the feature repo.
        until
            Aware datetime.

        Raises
        ------
        InvalidInput
            There is neither a file nor a feature repo, or the events are malformed.
        """
        if file is None:
            view = self._source(Role.EVENTS, "--events")
            return read_events(*self._offline, [view], self.spec, start=0, end=to_us(until))
        domain = self.names
        columns = (*domain.event_columns, names.EVENT_TIMESTAMP)
        table = self._read(file, Role.EVENTS, columns, [domain.event_id])
        return ActivityEvents.from_arrow(table, self.spec, source=str(file), domain=domain)

    def postings(self, file: Path | None, content: Sequence[str], until: datetime) -> pa.Table:
        """Return ids, `event_timestamp` and content of the postings up to a time.

        Parameters
        ----------
        file, until
            As in `events`; of a file, all postings are returned.
        content
            Names of columns, as the view of postings has them.
        """
        if file is None:
            view = self._source(Role.POSTINGS, "--postings")
            return read_postings(*self._offline, view, list(content), end=to_us(until))
        columns = list(dict.fromkeys([self.names.item_id, names.EVENT_TIMESTAMP, *content]))
        return self._read(file, Role.POSTINGS, columns, [])

    def _source(self, role: str, option: str) -> Any:
        if self.definitions is None:
            raise InvalidInput(
                f"{self.repo}: expected a feature repo, whose source is read, or {option}. "
                "Received: neither"
            )
        return self.definitions.view(role, self.item)

    def _read(
        self, file: Path, role: str, columns: Sequence[str], optional: Sequence[str]
    ) -> pa.Table:
        """Read a file, whose columns may have the names of the feature repo's source."""
        called = {name: name for name in (*columns, *optional)}
        if self.definitions is not None and self.definitions.views.get(role):
            called = source_names(self.definitions.view(role, self.item), called)
        source = FileSource(path=str(file.resolve()))
        columns_in_file = ParquetFiles(source, None, str(file)).schema().names
        chosen = names_there(columns_in_file, called, str(file), optional=optional)
        source.timestamp_field = chosen.pop(names.EVENT_TIMESTAMP)
        ids = [self.names.member_id, self.names.item_id, self.names.event_id]
        asked = RowsAsked(chosen, ids, names.EVENT_TIMESTAMP, None, FOREVER)
        return ParquetFiles(source, None, str(file)).read(asked)

    @property
    def _offline(self) -> tuple[Any, Any]:
        store = FeatureStore(repo_path=str(self.repo))
        return store.config, offline_store(store)
