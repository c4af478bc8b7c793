"""What is compared: activity models, and the arms in which the ranker gets their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import Arm, ArmRole, Kind, Source
from activity_embeddings.training.evaluation.result import TrainingCurve
from activity_embeddings.training.evaluation.scorers import ScoringModel
from activity_embeddings.training.outputs import negative_outputs
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    ModelDescription,
    describe_model,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import parse_datetime
from activity_embeddings.transformations.wording import counted


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to be compared: one SavedModel, or one for each seed of its training.

    Parameters
    ----------
    name
        Name of its arm.
    title
        For people.
    role
        A reference or learned.
    paths
        Folders of SavedModels: one, or a different one for each seed.
    """

    name: str
    title: str
    role: ArmRole
    paths: tuple[Path, ...]

    @property
    def views(self) -> tuple[str, ...]:
        """The names under which the SavedModels are published."""
        if len(self.paths) == 1:
            return (self.name,)
        return tuple(f"{self.name}_{i}" for i in range(len(self.paths)))

    def view(self, seed: int) -> str:
        """Return the name of the SavedModel of one seed, by its position among the seeds."""
        return self.views[seed] if len(self.views) > 1 else self.name

    def describe(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> list[ModelDescription]:
        """Read and check every SavedModel.

        Raises
        ------
        InvalidInput
            A vector cannot be multiplied with an item's, no vector is of something wanted, or one
            SavedModel has other outputs than the first.
        """
        described = [
            describe_model(ActivityModel(path, name=view), spec=spec, vector_spec=vector_spec)
            for path, view in zip(self.paths, self.views, strict=True)
        ]
        unwanted = negative_outputs(spec)
        for model, path in zip(described, self.paths, strict=True):
            outputs = model.outputs
            if outputs != described[0].outputs:
                raise InvalidInput(
                    f"model {self.name!r}: expected every SavedModel to have the outputs of "
                    f"{self.paths[0]}, {dict(described[0].outputs)}. Received: {dict(outputs)} of "
                    f"{path}"
                )
            if set(outputs.values()) != {vector_spec.dimension} or not set(outputs) - unwanted:
                raise InvalidInput(
                    f"model {self.name!r}: expected vectors as long as an item's, "
                    f"{vector_spec.dimension}, to be multiplied with it, and one of what was "
                    f"wanted. Received: {dict(outputs)} of {path}"
                )
        return described


@dataclass(frozen=True, eq=False)
class Contenders:
    """All models of an evaluation and the arms that are compared.

    Attributes
    ----------
    models
        By name, references first.
    described
        The SavedModels of each model.
    arms
        In the order of the report.
    scoring
        What scores items without a vector, by name: tables of counts first.
    candidate
        The model of which the placebo and the freshness curve are made.
    """

    models: Mapping[str, EvaluatedModel]
    described: Mapping[str, Sequence[ModelDescription]]
    scoring: Mapping[str, ScoringModel]
    arms: Sequence[Arm]
    candidate: str

    @classmethod
    def of(
        cls,
        models: Iterable[EvaluatedModel],
        described: Mapping[str, Sequence[ModelDescription]],
        *,
        scoring: Sequence[ScoringModel],
        with_categories: bool,
        with_truth: bool,
        kinds: Sequence[str] = (),
    ) -> Contenders:
        """Return the models, with the arms that they make.

        Parameters
        ----------
        models
            References first; the last learned one is the candidate, or else the decay.
        described
            The SavedModels of each of them.
        scoring
            What scores items without a vector; those that are no table of counts are also measured
            with the vectors of a learned candidate beside them.
        with_categories
            Whether items have categories.
        with_truth
            Whether the true preferences of members are known.
        kinds
            The names of the kinds of activity, where there are several: a learned candidate is
            also measured without each of them.
        """
        by_name = {model.name: model for model in models}
        learned = [name for name, model in by_name.items() if model.role == ArmRole.LEARNED]
        candidate = learned[-1] if learned else arms.DECAY
        of_models = {m.name: arms.model_arm(m.name, m.title, m.role) for m in by_name.values()}
        two_rates = of_models.pop(arms.TWO_RATES)
        decay = of_models[arms.DECAY]
        compared = [Arm(arms.NOTHING, "base features alone", ArmRole.BASE)]
        if with_categories:
            compared.append(
                Arm(
                    arms.CATEGORY_SUMS,
                    "sums of the categories of recent items, for each action",
                    ArmRole.REFERENCE,
                    (Source(Kind.CATEGORIES),),
                )
            )
        of_scoring = [arms.scoring_arm(each.name, each.title) for each in scoring]
        compared += [*of_scoring, *of_models.values()]
        compared.append(arms.combined(decay, two_rates))
        compared += [arms.combined(decay, of_models[name]) for name in learned]
        compared += [
            arms.combined(arm, of_models[candidate])
            for arm in of_scoring
            if learned and arm.name not in arms.COUNTS
        ]
        less = arms.without_kinds(candidate, kinds) if learned else []
        added = [arm.name for arm in (*of_scoring, *less)]
        arms.require_distinct_names([*by_name, *added], reserved=())
        compared += less
        compared += arms.controls(candidate, leaking=arms.DECAY)
        if with_truth:
            truth = (Source(Kind.TRUTH),)
            compared.append(Arm(arms.ORACLE, "the member's true preference", ArmRole.ORACLE, truth))
        by_scorer = {each.name: each for each in scoring}
        return cls(by_name, described, by_scorer, compared, candidate)

    @property
    def paths(self) -> dict[str, Path]:
        """The folder of every SavedModel, by the name under which it is published."""
        return {
            view: path
            for model in self.models.values()
            for view, path in zip(model.views, model.paths, strict=True)
        }

    @property
    def basic_arms(self) -> list[Arm]:
        """The base features alone, and each model or table by itself, or with less."""
        basic = {arms.NOTHING, *self.scoring, *self.models}
        return [arm for arm in self.arms if arm.name in basic or arm.role == ArmRole.LESS]

    def training_curves(self) -> list[TrainingCurve]:
        """Return the figures of each epoch, as manifests have them, of each model's first run."""
        return [
            {"model": name, "epochs": list(model.manifest["training"]["history"])}
            for name, (model, *_) in self.described.items()
            if (model.manifest.get("training") or {}).get("history")
        ]

    def of_unknown_training(self) -> list[str]:
        """Return a sentence about the models whose manifest does not say what they learned from."""
        unknown = [
            name
            for name, of_seeds in self.described.items()
            if name not in arms.RESERVED
            and not all(_learned_nothing(m.manifest) or _ends(m.manifest) for m in of_seeds)
        ]
        if not unknown:
            return []
        return [
            f"The manifest of {', '.join(unknown)} does not say which days it learned from, so "
            "that nothing here can tell whether it knew those of the test."
        ]

    def of_one_training(self) -> list[str]:
        """Return a sentence about what was trained once, and not once for each seed."""
        once = [
            *(
                m.name
                for m in self.models.values()
                if m.role == ArmRole.LEARNED and len(m.paths) == 1
            ),
            *(
                s.name
                for s in self.scoring.values()
                if s.name not in arms.COUNTS and len(s.scorers) == 1
            ),
        ]
        if not once:
            return []
        return [
            f"Of {', '.join(once)} there is one training: intervals are over members and seeds of "
            "the ranker, and say nothing of another training."
        ]


def require_one_a_seed(name: str, trained: Sequence[object], seeds: int) -> None:
    """Refuse several trained models of an arm that are not a different one for each seed.

    Those that count for more than one seed would look like independent ones that agree, and
    intervals would be too narrow.

    Parameters
    ----------
    name
        Of the arm.
    trained
        What tells its trained models apart.
    seeds
        How many seeds there are.

    Raises
    ------
    InvalidInput
        There are neither one nor as many as seeds, or two are the same.
    """
    different = len(set(trained))
    if len(trained) not in (1, seeds) or different < len(trained):
        raise InvalidInput(
            f"arm {name!r}: expected one trained model, or a different one for each of "
            f"{counted(seeds, 'seed')}. Give one, or train as many, or change the number of seeds "
            f"(`--seeds`). Received: {len(trained)}"
            + (f", {different} of them different" if different < len(trained) else "")
        )


def require_earlier(name: str, manifest: Mapping[str, Any], start: datetime, begins: str) -> None:
    """Refuse a model that learned, or was chosen, by labels that it is measured with.

    Parameters
    ----------
    name
        What errors call the model.
    manifest
        Of one of its SavedModels.
    start, begins
        Where the first of them are, and what happens from then on.

    Raises
    ------
    InvalidInput
        A label that the model saw may be as late, or an end of its training is no time.
    """
    what = f"model {name!r}: the end of its training"
    end = max((parse_datetime(end, what) for end in _ends(manifest)), default=start)
    if end > start:
        raise InvalidInput(
            f"model {name!r}: expected one that learned before {start}, from when on {begins}. "
            f"Received: one that saw labels until {end}. Evaluate later days, or train it on "
            "earlier ones"
        )


def _ends(manifest: Mapping[str, Any]) -> list[Any]:
    """Return where the days end whose labels a model saw, as far as its manifest says so.

    Training, validation, or both: of a network trained with item vectors one period has them all.
    """
    training = manifest.get("training") or {}
    parts = [training, *(training.get(part) or {} for part in ("period", "validation"))]
    return [part["end"] for part in parts if part.get("end")]


def _learned_nothing(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest says that a model is a formula."""
    return (manifest.get("training") or {}).get("epochs") == 0
