"""Read what an evaluation needs from a user's applied feature repo."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from feast import FeatureStore

from activity_embeddings.training.evaluation.arms import ArmRole
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.data import Data
from activity_embeddings.training.from_repo import TrainingSource
from activity_embeddings.transformations import names
from activity_embeddings.transformations.batch.engine import ActivityComputeEngineConfig
from activity_embeddings.transformations.contract.activity_model import read_manifest
from activity_embeddings.transformations.errors import InvalidInput


def read_data(
    store: FeatureStore,
    *,
    until: datetime,
    categories: Sequence[str] = (),
    description: str = "",
    truth: Path | None = None,
    item: str | None = None,
) -> Data:
    """Read events, item vectors and postings through Feast.

    Parameters
    ----------
    store
        The feature store, after `feast apply`. Nothing need have been materialized but item vectors
        of the user's own.
    until
        No later event is read.
    categories
        Columns of the postings with categories, default all lists of text.
    description
        One line for the report.
    truth
        Folder of the truth of a simulated market, with the join keys of the domain.
    item
        Name of the item's entity, where the feature repo has several domains.
    """
    source = TrainingSource(store, item)
    columns = tuple(categories or source.category_columns())
    history = source.whole_history(until)
    postings = source.postings(columns, until) if columns else None
    if postings is None:
        if categories:
            raise InvalidInput(
                f"categories: expected a view `{source.domain.names.postings_view}` with the "
                f"columns {', '.join(categories)}. Received: a feature repo without postings"
            )
        columns = ()
        postings = pa.table(
            {
                names.ITEM_ID: history.vectors.item_ids[:0],
                names.EVENT_TIMESTAMP: pa.array([], pa.timestamp("us", tz="UTC")),
            }
        )
    else:
        # The evaluation's own tables have the names of the default domain.
        item_id = source.domain.names.item_id
        postings = postings.rename_columns(
            [names.ITEM_ID if name == item_id else name for name in postings.column_names]
        )
    engine = store.config.batch_engine
    if not isinstance(engine, ActivityComputeEngineConfig):
        engine = ActivityComputeEngineConfig()
    return Data(
        history=history,
        vector_spec=source.vector_spec,
        postings=postings,
        category_columns=columns,
        schedule=engine.schedule,
        description=description or f"Events of the Feast project {store.project}",
        simulated=source.simulated or truth is not None,
        truth=truth,
        truth_names=source.domain.names,
    )


def read_models(
    store: FeatureStore,
    wanted: Sequence[str] = (),
    also: Sequence[tuple[str, Sequence[Path]]] = (),
    *,
    item: str | None = None,
) -> list[EvaluatedModel]:
    """Return the models to be compared.

    Parameters
    ----------
    store
        The feature store, after `feast apply`.
    wanted
        Names of registered models, default all that were trained: averages are always there.
    also
        Names and SavedModels, one or one for each seed, that are not registered.
    item
        Name of the item's entity, where the feature repo has several domains.

    Raises
    ------
    InvalidInput
        A name is not registered.
    """
    registered = TrainingSource(store, item).models()
    unknown = [name for name in wanted if name not in registered]
    if unknown:
        raise InvalidInput(
            f"models: expected names among {', '.join(sorted(registered)) or 'none'}, the ones "
            f"that `feast apply` has registered. Received: {', '.join(unknown)}"
        )
    paths = {name: Path(model.path) for name, model in registered.items()}
    chosen = wanted or [name for name, path in paths.items() if _is_trained(path)]
    named: list[tuple[str, tuple[Path, ...]]] = [(name, (paths[name],)) for name in chosen]
    named += [(name, tuple(map(Path, folders))) for name, folders in also]
    return [
        EvaluatedModel(
            name,
            str(read_manifest(folders[0]).get("description") or name),
            ArmRole.LEARNED if _is_trained(folders[0]) else ArmRole.REFERENCE,
            folders,
        )
        for name, folders in named
    ]


def _is_trained(path: Path) -> bool:
    """Return whether a model learned; one whose manifest has no training counts as learned."""
    training = read_manifest(path).get("training")
    return training is None or bool(training.get("epochs"))
