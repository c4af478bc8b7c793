"""Manifests: a JSON file in a SavedModel's `assets.extra` that says what TensorFlow cannot.

TensorFlow keeps that folder as it is. One kind of manifest belongs to activity models, another to
item encoders; both say their format, and the fingerprint of the content that they were written for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from activity_embeddings.transformations.contract.saved_model import fingerprint
from activity_embeddings.transformations.errors import (
    InvalidInput,
    ModelMismatch,
    first_line,
    quote,
    require_kinds,
)

FOLDER = Path("assets.extra")
FORMAT = 1
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class ManifestKind:
    """What the manifests of one kind of SavedModel are called and have to say.

    Parameters
    ----------
    what
        What errors call such a SavedModel.
    file_name
        In the folder `assets.extra`.
    required
        Facts that every manifest states, beside format and fingerprint, and their types.
    optional
        Others that are read, and their types.
    """

    what: str
    file_name: str
    required: Mapping[str, type]
    optional: Mapping[str, type | tuple[type, ...]] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Path of the manifest within the SavedModel."""
        return FOLDER / self.file_name

    def read(self, path: Path) -> dict[str, Any]:
        """Return the manifest of the SavedModel in folder `path`, or an empty dict without one.

        Raises
        ------
        InvalidInput
            The manifest is not JSON of the expected format, or lacks a fact.
        """
        file = path / self.file
        if not file.is_file():
            return {}
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            received = manifest.get("format")
        except (ValueError, AttributeError, RecursionError) as error:
            raise InvalidInput(
                f"{self.what} {path}: {self.file} should be a JSON object. Received: "
                f"{first_line(error)}"
            ) from error
        required = (*self.required, "fingerprint")
        missing = [key for key in required if key not in manifest]
        if received != FORMAT or missing:
            raise InvalidInput(
                f"{self.what} {path}: {self.file} should have format {FORMAT} and "
                f"{', '.join(required)}. Received: format {quote(received)}"
                + (f", without {', '.join(missing)}" if missing else "")
            )
        kinds = {**self.required, "fingerprint": str, **self.optional}
        there = {key: (manifest[key], kind) for key, kind in kinds.items() if key in manifest}
        require_kinds(f"{self.what} {path}: {self.file}", **there)
        return manifest

    def write(self, path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest of the SavedModel in folder `path`; `facts` are JSON values."""
        manifest = {"format": FORMAT, **facts, "fingerprint": fingerprint(path)}
        file = path / self.file
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return manifest

    def require_name(self, name: Any, path: Path, *, origin: str) -> str:
        """Return a name that may be part of a view's name; `origin` is where it should stand."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{self.what} {path}: `name` should be lower-case letters, digits and '_', from "
                f"{origin}. Received: {quote(name)}"
            )
        return name

    def require_unchanged(self, manifest: Mapping[str, Any], path: Path, content: str) -> None:
        """Raise `InvalidInput` unless the SavedModel's fingerprint is the manifest's."""
        if manifest["fingerprint"] != content:
            raise ModelMismatch(
                f"{self.what} {manifest['name']!r}: the SavedModel at {path} should be the one "
                f"that was packaged, fingerprint {quote(manifest['fingerprint'])}. "
                f"Received: {content} (changed or corrupt file)"
            )
