"""The model contract: a TensorFlow SavedModel, what it takes, what it gives, what it was made for.

`serving_default` takes, by name, `item_embeddings` float32 [batch, length, dim], `actions` int32
[batch, length] and, if the model asks for it, `ages` float32 [batch, length] in days before the
as-of time. Every output `x` float32 [batch, d] becomes feature `x` of the model's view.

A manifest in the SavedModel's `assets.extra` says the rest. A SavedModel without one works too,
with those facts in its registry line. Nothing here imports TensorFlow: a model is checked when
it is declared, on every `feast` command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from activity_embeddings.transformations import names
from activity_embeddings.transformations.artifacts import Location, is_url, local_folder
from activity_embeddings.transformations.contract.litert_file import (
    FACT,
    LITERT,
    TENSORFLOW,
    LiteRTFile,
    seconds_of_one,
    why_tensorflow,
)
from activity_embeddings.transformations.contract.manifest import ManifestKind
from activity_embeddings.transformations.contract.saved_model import (
    Signature,
    TensorSpec,
    fingerprint,
    read_signature,
)
from activity_embeddings.transformations.errors import (
    InvalidInput,
    ModelMismatch,
    quote,
    require_kinds,
)
from activity_embeddings.transformations.spec import (
    LONGEST_VECTOR,
    ActivitySpec,
    ItemVectorSpec,
    describe_mismatch,
    require_version,
)

GPU = "gpu"
"""Fact of a manifest: the share of a GPU that a process which runs the model should have."""
MANIFEST = ManifestKind(
    "model",
    "activity_model.json",
    {"name": str, "version": str, "spec": dict, "vector_spec": dict},
    {"description": str, "owner": str, FACT: dict, GPU: (int, float)},
)
Fact = TypeVar("Fact")


@dataclass(frozen=True)
class ActivityModel:
    """One line of `ACTIVITY_MODELS`: where a SavedModel lies, and what its manifest leaves open.

    Parameters
    ----------
    path
        str or Path. The folder of the SavedModel, or a URL such as s3://bucket/models/cnn, of which
        each machine keeps a copy.
    name
        Names the view `<item>_activity_embedding_<name>`; default: the manifest's.
    version
        Default: the manifest's.
    spec
        ActivitySpec. What the model was made for; needed only without a manifest.
    vector_spec
        ItemVectorSpec. Likewise.
    description, owner
        Shown by `feast ui`.
    """

    path: str | Path
    name: str | None = None
    version: str | None = None
    spec: ActivitySpec | None = None
    vector_spec: ItemVectorSpec | None = None
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        unset = type(None)
        require_kinds(
            "ActivityModel",
            path=(self.path, (str, Path)),
            name=(self.name, (str, unset)),
            version=(self.version, (str, unset)),
            spec=(self.spec, (ActivitySpec, unset)),
            vector_spec=(self.vector_spec, (ItemVectorSpec, unset)),
            description=(self.description, str),
            owner=(self.owner, str),
        )


@dataclass(frozen=True)
class ModelDescription:
    """A SavedModel that was found, read and checked.

    Attributes
    ----------
    path
        Its folder on this machine.
    location
        Where it was said to lie: a path or a URL.
    outputs
        dict of output name to its length d.
    uses_ages
        Whether the model takes `ages`.
    uses_sessions
        Whether it takes `sessions`.
    fingerprint
        Hash of the SavedModel's content.
    manifest
        dict. The manifest as read; empty without one.
    converted
        LiteRTFile. The same model for LiteRT; None where there is none.
    """

    name: str
    version: str
    path: Path
    location: Location
    spec: ActivitySpec
    vector_spec: ItemVectorSpec
    outputs: dict[str, int]
    uses_ages: bool
    fingerprint: str
    description: str = ""
    owner: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    converted: LiteRTFile | None = None
    uses_sessions: bool = False

    @property
    def runtime(self) -> str:
        """What computes batches of it, `litert` or `tensorflow`."""
        by_litert = self.converted is not None and self.converted.runs_batches
        return LITERT if by_litert else TENSORFLOW

    @property
    def why_tensorflow(self) -> str:
        """Why TensorFlow computes batches of it, for people; empty where LiteRT does."""
        return "" if self.runtime == LITERT else why_tensorflow(self.manifest)

    @property
    def litert_seconds(self) -> float | None:
        """What LiteRT takes for a sequence of a batch, as measured at packaging.

        None for a model that TensorFlow runs, or that was not timed.
        """
        return seconds_of_one(self.manifest) if self.runtime == LITERT else None

    @property
    def gpu(self) -> float:
        """Share of a GPU that a worker of a Ray cluster asks for; 0 where LiteRT runs batches."""
        return 0.0 if self.runtime == LITERT else float(self.manifest.get(GPU, 0.0))

    def summary(self) -> str:
        """Return one line for people: name, version, inputs and outputs."""
        outputs = ", ".join(f"{name}[{size}]" for name, size in self.outputs.items())
        why = f"; in TensorFlow: {self.why_tensorflow}" if self.why_tensorflow else ""
        return (
            f"{self.name} version {self.version} ({self.fingerprint}): "
            f"{self.vector_spec.name} {self.vector_spec.version} -> {outputs}{why}"
        )


def describe_models(
    models: Sequence[ActivityModel], *, spec: ActivitySpec, vector_spec: ItemVectorSpec
) -> list[ModelDescription]:
    """Check every line of `ACTIVITY_MODELS` against what the feature repo computes.

    Raises
    ------
    InvalidInput
        A model does not exist, cannot be read or was made for another spec or item vectors, or
        two lines have one name. The message names the model.
    """
    require_kinds("ACTIVITY_MODELS", models=(models, (list, tuple)))
    described: dict[str, ModelDescription] = {}
    for model in models:
        description = describe_model(model, spec=spec, vector_spec=vector_spec)
        if description.name in described:
            raise InvalidInput(
                f"model {description.name!r}: names in ACTIVITY_MODELS should be distinct. "
                f"Received: {described[description.name].path} and {description.path}"
            )
        described[description.name] = description
    return list(described.values())


def describe_model(
    model: ActivityModel, *, spec: ActivitySpec, vector_spec: ItemVectorSpec
) -> ModelDescription:
    """Check one line; see `describe_models`."""
    require_kinds("ACTIVITY_MODELS", model=(model, ActivityModel))
    path = local_folder(model.path)
    signature = read_signature(path)
    manifest = read_manifest(path)
    content = fingerprint(path)
    name = MANIFEST.require_name(
        model.name or manifest.get("name"), path, origin="the manifest or the registry line"
    )
    if manifest:
        MANIFEST.require_unchanged({**manifest, "name": name}, path, content)
    packaged_spec = ActivitySpec.from_dict(manifest["spec"]) if manifest else None
    packaged_vectors = ItemVectorSpec.from_dict(manifest["vector_spec"]) if manifest else None
    version = _one_fact(name, path, "version", manifest.get("version"), model.version)
    made_for_spec = _one_fact(name, path, "spec", packaged_spec, model.spec)
    made_for_vectors = _one_fact(name, path, "vector_spec", packaged_vectors, model.vector_spec)
    for what, mismatch in (
        # Facts that only the model's spec has are mismatches too: the kinds of activity.
        (
            "activity spec",
            describe_mismatch(
                {**dict.fromkeys(made_for_spec.to_dict()), **spec.to_dict()},
                made_for_spec.to_dict(),
            ),
        ),
        (
            "item vectors",
            describe_mismatch(vector_spec.to_dict(), made_for_vectors.to_dict()),
        ),
    ):
        if mismatch:
            raise ModelMismatch(
                f"model {name!r} (version {version}) was made for another {what}: {mismatch}"
            )
    if not 0 <= manifest.get(GPU, 0) <= 1:
        raise InvalidInput(
            f"model {name!r}: `{GPU}` in the manifest should be the share of one GPU, from 0 to 1. "
            f"Received: {quote(manifest[GPU])}"
        )
    return ModelDescription(
        name=name,
        version=require_version(version, f"model {name!r}"),
        path=path,
        location=model.path if is_url(model.path) else path,
        spec=spec,
        vector_spec=vector_spec,
        outputs=_check_signature(name, signature, spec, vector_spec),
        uses_ages=names.INPUT_AGES in signature.inputs,
        uses_sessions=names.INPUT_SESSIONS in signature.inputs,
        fingerprint=content,
        description=model.description or manifest.get("description", ""),
        owner=model.owner or manifest.get("owner", ""),
        manifest=manifest,
        converted=LiteRTFile.of(path, {**manifest, "name": name}),
    )


def _one_fact(name: str, path: Path, fact: str, packaged: Fact | None, given: Fact | None) -> Fact:
    """Return a fact that the manifest or the registry line gives, and both do not contradict."""
    if packaged and given is not None and given != packaged:
        raise ModelMismatch(
            f"model {name!r}: `{fact}` in the registry line should be left out or equal the "
            f"manifest's {quote(packaged)}. Received: {quote(given)}"
        )
    chosen = packaged or given
    if not chosen:
        raise InvalidInput(
            f"model {name!r}: {path} has no manifest, so its registry line should give "
            f"`{fact}`. Received: {fact}={given!r}"
        )
    return chosen


def _check_signature(
    name: str, signature: Signature, spec: ActivitySpec, vector_spec: ItemVectorSpec
) -> dict[str, int]:
    """Return output lengths after checking names, types and shapes."""
    length, dimension = spec.length, vector_spec.dimension
    expected = {
        names.INPUT_ITEM_EMBEDDINGS: TensorSpec("float32", (None, length, dimension)),
        names.INPUT_ACTIONS: TensorSpec("int32", (None, length)),
        names.INPUT_AGES: TensorSpec("float32", (None, length)),
        names.INPUT_SESSIONS: TensorSpec("int32", (None, length)),
    }
    required = {names.INPUT_ITEM_EMBEDDINGS, names.INPUT_ACTIONS}
    received = set(signature.inputs)
    if not required <= received <= set(expected):
        raise InvalidInput(
            f"model {name!r}: inputs should be named item_embeddings, actions and, if wanted, "
            f"ages or sessions. Received: {', '.join(sorted(received)) or 'none'}"
        )
    for input_name, tensor in signature.inputs.items():
        if not tensor.accepts(expected[input_name]):
            raise InvalidInput(
                f"model {name!r}: input {input_name!r} should be {expected[input_name]}. "
                f"Received: {tensor}"
            )
    outputs: dict[str, int] = {}
    for output_name, tensor in sorted(signature.outputs.items()):
        match tensor:
            case TensorSpec("float32", (None, int(size))) if 0 < size <= LONGEST_VECTOR:
                outputs[output_name] = size
            case _:
                raise InvalidInput(
                    f"model {name!r}: output {output_name!r} should be float32 [?, d] with a "
                    f"fixed length d of at most {LONGEST_VECTOR:,}. Received: {tensor}"
                )
    if not outputs:
        raise InvalidInput(f"model {name!r}: expected at least one output. Received: none")
    return outputs


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a SavedModel, or an empty dict where it has none.

    Raises
    ------
    InvalidInput
        The manifest is not JSON of the expected format, or lacks a fact.
    """
    return MANIFEST.read(path)


def write_manifest(
    path: Path,
    *,
    name: str,
    version: str,
    spec: ActivitySpec,
    vector_spec: ItemVectorSpec,
    **facts: Any,
) -> dict[str, Any]:
    """Write the manifest of the SavedModel in `path`; `facts` are JSON values of your own.

    Customary facts: `description`, `owner`, `training` (range and counts), `metrics`,
    `parameters`.
    """
    stated = {
        "name": name,
        "version": version,
        "spec": spec.to_dict(),
        "vector_spec": vector_spec.to_dict(),
    }
    return MANIFEST.write(path, {**stated, **facts})
