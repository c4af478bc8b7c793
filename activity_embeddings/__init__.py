"""Activity embeddings on Feast: the public names of the package.

    from activity_embeddings import ActivitySpec, SequenceWriter, models, train

A name is imported from its module when it is first used. So `import activity_embeddings` takes
milliseconds, and needs neither TensorFlow nor Feast. What is not listed here may change without
notice.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from activity_embeddings.training import models, objectives
    from activity_embeddings.training.evaluation.evaluate import evaluate
    from activity_embeddings.training.examples.periods import Period
    from activity_embeddings.training.fitting.search import tune
    from activity_embeddings.training.fitting.train import train
    from activity_embeddings.training.from_repo import TrainingSource
    from activity_embeddings.training.packaging import package_item_encoder, package_model
    from activity_embeddings.training.testing import ACTIVITY_MODEL_CHECKS, check_activity_model
    from activity_embeddings.transformations.batch.engine import (
        ActivityComputeEngine,
        ActivityComputeEngineConfig,
    )
    from activity_embeddings.transformations.contract.activity_model import ActivityModel
    from activity_embeddings.transformations.definitions.domain import ActivityDomain
    from activity_embeddings.transformations.definitions.snapshot_source import (
        IcebergSnapshots,
        PostgreSQLSnapshots,
    )
    from activity_embeddings.transformations.definitions.tags import vector_spec_of
    from activity_embeddings.transformations.definitions.views import (
        activity_view,
        encoded_vector_view,
        posting_view,
        vector_view,
    )
    from activity_embeddings.transformations.errors import (
        AlreadyRunning,
        GuardFailed,
        InvalidData,
        InvalidInput,
        MissingExtra,
        ModelMismatch,
        NotReady,
        StoreUnreachable,
    )
    from activity_embeddings.transformations.explain.explain import explain
    from activity_embeddings.transformations.explain.explanation import Explanation
    from activity_embeddings.transformations.feast_compat.sqlite import (
        ThreadedSqliteOnlineStore,
        ThreadedSqliteOnlineStoreConfig,
    )
    from activity_embeddings.transformations.names import DomainNames
    from activity_embeddings.transformations.offline.dask import (
        OrderedDaskOfflineStore,
        OrderedDaskOfflineStoreConfig,
    )
    from activity_embeddings.transformations.offline.duckdb import (
        OrderedDuckDBOfflineStore,
        OrderedDuckDBOfflineStoreConfig,
    )
    from activity_embeddings.transformations.offline.postgres_store import (
        OrderedPostgreSQLOfflineStore,
        OrderedPostgreSQLOfflineStoreConfig,
    )
    from activity_embeddings.transformations.offline.spark_store import (
        OrderedSparkOfflineStore,
        OrderedSparkOfflineStoreConfig,
    )
    from activity_embeddings.transformations.online.push import SequenceWriter
    from activity_embeddings.transformations.serving.entity_rows import entity_rows
    from activity_embeddings.transformations.serving.process import embed_request, preload
    from activity_embeddings.transformations.serving.refusals import RequestLimits
    from activity_embeddings.transformations.serving.request import InvalidRequest
    from activity_embeddings.transformations.serving.server import start_serving
    from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

    __version__: str

__all__ = [
    "ACTIVITY_MODEL_CHECKS",
    "ActivityComputeEngine",
    "ActivityComputeEngineConfig",
    "ActivityDomain",
    "ActivityModel",
    "ActivitySpec",
    "AlreadyRunning",
    "DomainNames",
    "Explanation",
    "GuardFailed",
    "IcebergSnapshots",
    "InvalidData",
    "InvalidInput",
    "InvalidRequest",
    "ItemVectorSpec",
    "MissingExtra",
    "ModelMismatch",
    "NotReady",
    "OrderedDaskOfflineStore",
    "OrderedDaskOfflineStoreConfig",
    "OrderedDuckDBOfflineStore",
    "OrderedDuckDBOfflineStoreConfig",
    "OrderedPostgreSQLOfflineStore",
    "OrderedPostgreSQLOfflineStoreConfig",
    "OrderedSparkOfflineStore",
    "OrderedSparkOfflineStoreConfig",
    "Period",
    "PostgreSQLSnapshots",
    "RequestLimits",
    "SequenceWriter",
    "StoreUnreachable",
    "ThreadedSqliteOnlineStore",
    "ThreadedSqliteOnlineStoreConfig",
    "TrainingSource",
    "__version__",
    "activity_view",
    "check_activity_model",
    "embed_request",
    "encoded_vector_view",
    "entity_rows",
    "evaluate",
    "explain",
    "models",
    "objectives",
    "package_item_encoder",
    "package_model",
    "posting_view",
    "preload",
    "start_serving",
    "train",
    "tune",
    "vector_spec_of",
    "vector_view",
]

_MODULE_OF = {
    # What a feature repo says.
    "ActivityModel": "transformations.contract.activity_model",
    "ActivitySpec": "transformations.spec",
    "ItemVectorSpec": "transformations.spec",
    "ActivityDomain": "transformations.definitions.domain",
    "IcebergSnapshots": "transformations.definitions.snapshot_source",
    "PostgreSQLSnapshots": "transformations.definitions.snapshot_source",
    "activity_view": "transformations.definitions.views",
    "encoded_vector_view": "transformations.definitions.views",
    "posting_view": "transformations.definitions.views",
    "vector_spec_of": "transformations.definitions.tags",
    "vector_view": "transformations.definitions.views",
    # What feature_store.yaml names; Feast asks for `<type>Config` too.
    "ActivityComputeEngine": "transformations.batch.engine",
    "ActivityComputeEngineConfig": "transformations.batch.engine",
    "OrderedDaskOfflineStore": "transformations.offline.dask",
    "OrderedDaskOfflineStoreConfig": "transformations.offline.dask",
    "OrderedDuckDBOfflineStore": "transformations.offline.duckdb",
    "OrderedDuckDBOfflineStoreConfig": "transformations.offline.duckdb",
    "OrderedPostgreSQLOfflineStore": "transformations.offline.postgres_store",
    "OrderedPostgreSQLOfflineStoreConfig": "transformations.offline.postgres_store",
    "OrderedSparkOfflineStore": "transformations.offline.spark_store",
    "OrderedSparkOfflineStoreConfig": "transformations.offline.spark_store",
    "ThreadedSqliteOnlineStore": "transformations.feast_compat.sqlite",
    "ThreadedSqliteOnlineStoreConfig": "transformations.feast_compat.sqlite",
    # Serving and live updates; `embed_request` is named in the registry.
    "SequenceWriter": "transformations.online.push",
    "embed_request": "transformations.serving.process",
    "RequestLimits": "transformations.serving.refusals",
    "entity_rows": "transformations.serving.entity_rows",
    "preload": "transformations.serving.process",
    "start_serving": "transformations.serving.server",
    # Looking at what is served.
    "Explanation": "transformations.explain.explanation",
    "explain": "transformations.explain.explain",
    # Training and evaluation.
    "ACTIVITY_MODEL_CHECKS": "training.testing",
    "Period": "training.examples.periods",
    "TrainingSource": "training.from_repo",
    "check_activity_model": "training.testing",
    "evaluate": "training.evaluation.evaluate",
    "models": "training",
    "objectives": "training",
    "package_item_encoder": "training.packaging",
    "package_model": "training.packaging",
    "train": "training.fitting.train",
    "tune": "training.fitting.search",
    "DomainNames": "transformations.names",
    # Errors; each is an `InvalidInput`.
    "AlreadyRunning": "transformations.errors",
    "GuardFailed": "transformations.errors",
    "InvalidData": "transformations.errors",
    "InvalidInput": "transformations.errors",
    "InvalidRequest": "transformations.serving.request",
    "MissingExtra": "transformations.errors",
    "ModelMismatch": "transformations.errors",
    "NotReady": "transformations.errors",
    "StoreUnreachable": "transformations.errors",
}

_EXTRA_OF = {
    "OrderedPostgreSQLOfflineStore": "postgres",
    "OrderedPostgreSQLOfflineStoreConfig": "postgres",
    "OrderedSparkOfflineStore": "spark",
    "OrderedSparkOfflineStoreConfig": "spark",
    "evaluate": "evaluate",
    "train": "train",
    "tune": "train",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("activity-embeddings")
    elif name in _MODULE_OF:
        if name in _EXTRA_OF:
            from activity_embeddings.transformations.extras import require_extra

            require_extra(_EXTRA_OF[name], f"{__name__}.{name}")
        # As `from module import name` does, which also finds a module of a package.
        value = getattr(__import__(f"{__name__}.{_MODULE_OF[name]}", fromlist=[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
