"""Write a new feature repo that can be applied at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.training.new_repo import render
from activity_embeddings.training.new_repo.settings import (
    PostingSource,
    RepoSettings,
    VectorSource,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.tensorflow import tensorflow

COPIED = ("activity_models.py", "services.py", "static_artifacts.py", "views.py")
"""Definitions that are the same in every feature repo."""
STORES = ("feature_store.yaml", "feature_store.redis.yaml")
_ARROW = {"int": pa.int64(), "string": pa.string()}
_TIME = pa.timestamp("us", "UTC")


def create_repo(folder: Path, settings: RepoSettings) -> None:
    """Write a feature repo into a new or empty folder.

    Its models are formulas, which need no data: plain and decaying averages, and for postings an
    encoder that hashes words. A source without a path gets an empty file of the right columns.

    Raises
    ------
    InvalidInput
        The folder holds something, or the settings do not fit together. Nothing was written.
    """
    with _written_whole(folder):
        write_definitions(folder, settings)
        (folder / ".gitignore").write_text("data/\nruns/\nevaluation/\n__pycache__/\n")
        (folder / "data").mkdir()
        _write_empty_sources(folder / "data", settings)
        _write_models(folder / "models", settings)


def write_definitions(folder: Path, settings: RepoSettings) -> None:
    """Write the definitions of a feature repo into a folder, without models and data.

    Raises
    ------
    InvalidInput
        The settings do not fit together. Nothing was written.
    """
    written = {
        "entities.py": render.entities_py(settings),
        "sources.py": render.sources_py(settings),
        "item_vectors.py": render.item_vectors_py(settings),
    }
    with _template() as template:
        for name in COPIED:
            shutil.copyfile(template / name, folder / name)
        for name in STORES:
            text = (template / name).read_text()
            (folder / name).write_text(render.feature_store_yaml(text, settings))
    for name, text in written.items():
        (folder / name).write_text(text)


def create_sample_repo(folder: Path) -> None:
    """Write the feature repo of the sample data: definitions, data and formula models.

    Raises
    ------
    InvalidInput
        The folder holds something.
    """
    with _written_whole(folder), _template() as template:
        for name in (*COPIED, *STORES, "entities.py", "sources.py", "item_vectors.py"):
            _copy(template / name, folder / name)
        for part in ("models/item_encoder", "models/unweighted_average", "models/geometric_decay"):
            shutil.copytree(template / part, folder / part)
        data = template / "data"
        for source in (data / "README.md", *data.glob("LICENSE*"), *data.glob("*.parquet")):
            _copy(source, folder / "data" / source.name)
        _copy(
            data / "activity_events" / "history.parquet",
            folder / "data" / "activity_events" / "history.parquet",
        )


def _template() -> AbstractContextManager[Path]:
    """Return the folder of the definitions that this package brings."""
    return as_file(files("activity_embeddings") / "template")


@contextmanager
def _written_whole(folder: Path) -> Iterator[None]:
    """Make a folder that is new or empty, and leave it as it was where the body fails."""
    _require_empty(folder)
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in folder.iterdir() if was_there else [folder]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        raise


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(
            f"{folder}: expected a folder that is new or empty. Received: "
            f"{'a folder with files' if folder.is_dir() else 'a file'}"
        )


def _write_empty_sources(data: Path, settings: RepoSettings) -> None:
    """Write empty files where the user named none, so that `feast apply` finds the columns."""
    domain, events, items = settings.names, settings.events, settings.items
    if not events.path:
        columns: dict[str, pa.DataType] = {
            domain.member_id: _ARROW[settings.member_type],
            domain.item_id: _ARROW[settings.item_type],
            domain.action: pa.string(),
            events.time: _TIME,
        }
        if events.event_id_type is not None:
            columns[domain.event_id] = _ARROW[events.event_id_type]
        _write_empty(data / "activity_events" / "empty.parquet", columns)
    if items.path:
        return
    columns = {items.item_id: _ARROW[settings.item_type], items.time: _TIME}
    if isinstance(items, VectorSource):
        columns[items.vector] = pa.list_(pa.float32())
        _write_empty(data / f"{domain.item}_embeddings.parquet", columns)
    else:
        kinds = {"String": pa.string(), "Int64": pa.int64(), "Float32": pa.float32()}
        columns |= {c.name: kinds.get(c.kind, pa.list_(pa.string())) for c in items.content}
        _write_empty(data / f"{domain.item}_postings.parquet", columns)


def _write_empty(file: Path, columns: Mapping[str, pa.DataType]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.schema(dict(columns)).empty_table(), file)


def _write_models(models: Path, settings: RepoSettings) -> None:
    """Build and package what needs no data."""
    # TensorFlow takes seconds to import; what is refused before should not wait for it.
    tensorflow()
    from activity_embeddings.training.models import GeometricDecay, UnweightedAverage
    from activity_embeddings.training.packaging import package_model

    spec, vector_spec = settings.spec, settings.vector_spec
    if isinstance(settings.items, PostingSource):
        vector_spec = _write_encoder(models / "item_encoder", settings.items, settings).vector_spec
    for name, architecture, description in (
        ("unweighted_average", UnweightedAverage(), "Plain averages, one for each action."),
        ("geometric_decay", GeometricDecay(), "Averages that decay with order, one an action."),
    ):
        package_model(
            architecture.build(spec, vector_spec),
            models / name,
            name=name,
            version="1",
            spec=spec,
            vector_spec=vector_spec,
            description=description,
            parameters=architecture.to_dict(),
            training={"epochs": 0},  # an evaluation counts it as a formula, not as learned
        )


def _write_encoder(path: Path, source: PostingSource, settings: RepoSettings) -> Any:
    import tensorflow as tf

    from activity_embeddings.training.item_encoder.hashing import HashingEncoder
    from activity_embeddings.training.packaging import package_item_encoder

    tensors = {
        "String": tf.TensorSpec([None], tf.string),
        "Int64": tf.TensorSpec([None], tf.int64),
        "Array(String)": tf.TensorSpec([None, None], tf.string),
    }
    columns = {c.name: tensors[c.kind] for c in source.content if c.kind in tensors}
    if not columns:
        raise InvalidInput(
            "item encoder: expected a column of text, integers or lists of text among the "
            f"postings. Received: {', '.join(c.name for c in source.content) or 'no column'}"
        )
    return package_item_encoder(
        HashingEncoder(columns, settings.vector_spec.dimension),
        path,
        name=settings.vector_spec.name,
        version=settings.vector_spec.version,
        valid_from="1970-01-01T00:00:00Z",
        description="Words of each item, hashed; nothing of it is learned.",
    )
