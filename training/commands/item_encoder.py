"""The command that trains and packages an item encoder, alone or with an activity model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from activity_embeddings.training.commands.options import (
    FOLDER,
    FitOptions,
    Setting,
    fit_options,
    grouped,
    learning_rate_option,
    objective_with,
    training,
    with_settings,
)
from activity_embeddings.transformations.cli import Moment, item_option
from activity_embeddings.transformations.errors import InvalidInput

if TYPE_CHECKING:
    from activity_embeddings.training.models import Network

_FILES = click.Path(exists=True, path_type=Path)


@dataclass(frozen=True)
class Sources:
    """What the encoder is trained on: files, where they are given, and columns of postings."""

    events: Path | None
    postings: Path | None
    text: tuple[str, ...]
    category: tuple[str, ...]


@dataclass(frozen=True)
class NetworkOptions:
    """The network that is trained together with the vectors, where there is one."""

    network_name: str | None
    network_settings: tuple[tuple[str, Any], ...]
    network_out: Path | None

    def build(self) -> Network | None:
        """Return the network, checked before anything is read."""
        from activity_embeddings.training.models import Network, architecture
        from activity_embeddings.training.models.registry import is_name

        if self.network_out is not None and not is_name(self.network_out.name):
            raise InvalidInput(
                "--network-out should end with the model's name: lower-case letters, digits and "
                f"'_'. Received: {self.network_out}"
            )
        name = self.network_name
        if name is None:
            if self.network_settings or self.network_out:
                raise InvalidInput(
                    "--network-set and --network-out expect --network. Received: no --network"
                )
            return None
        kind = architecture(name)
        if not issubclass(kind, Network):
            raise InvalidInput(
                f"--network should be a learned model, as cnn. Received: {name}, a formula"
            )
        network: Network = with_settings(kind, f"model {name!r}", dict(self.network_settings))
        return network


@click.command("train-item-encoder")
@grouped(
    "sources",
    Sources,
    click.option(
        "--events",
        type=_FILES,
        help="Parquet file or folder of events. Default: the source of the feature repo.",
    ),
    click.option(
        "--postings",
        type=_FILES,
        help="Parquet file or folder of postings. Default: the source of the feature repo.",
    ),
    click.option(
        "--text",
        multiple=True,
        default=("title",),
        show_default=True,
        help="Column of text; repeatable.",
    ),
    click.option(
        "--category", multiple=True, help="Column of categories or lists of them; repeatable."
    ),
)
@grouped(
    "network",
    NetworkOptions,
    click.option(
        "--network",
        "network_name",
        help="Activity model that is trained together with the vectors, as cnn. Default: a "
        "decaying average.",
    ),
    click.option(
        "--network-set",
        "network_settings",
        type=Setting(),
        multiple=True,
        help="Hyperparameter of the network, as filters=64; repeatable.",
    ),
    click.option(
        "--network-out",
        type=FOLDER,
        help="Folder of the network's SavedModel. The model gets the folder's name, and the "
        "version of the vectors.",
    ),
)
@click.option(
    "--objective-set",
    "objective_settings",
    type=Setting(),
    multiple=True,
    help="Setting of the objective next_positive, as other_weight=1; repeatable.",
)
@click.option(
    "--until",
    type=Moment(),
    required=True,
    help="End of training. No later event is read, and vectors are valid from then on.",
)
@click.option("--dimension", default=64, show_default=True, help="Length of a vector.")
@fit_options
@learning_rate_option
@click.option(
    "--name",
    default="content_and_behaviour",
    show_default=True,
    help="Name of the item vectors.",
)
@click.option(
    "--version",
    default="1",
    show_default=True,
    help="Version of the item vectors; a retrained encoder needs a new one.",
)
@click.option(
    "--out",
    type=FOLDER,
    help="Folder of the SavedModel. Default: that of the domain's encoder in the feature repo, or "
    "models/item_encoder for a first one.",
)
@click.option(
    "--run",
    type=FOLDER,
    default=Path("runs/item-encoder"),
    show_default=True,
    help="Folder of the checkpoints. Training that was killed is resumed.",
)
@item_option
@click.pass_obj
def train_item_encoder(
    repo: Path,
    sources: Sources,
    network: NetworkOptions,
    objective_settings: tuple[tuple[str, Any], ...],
    until: datetime,
    dimension: int,
    fit: FitOptions,
    learning_rate: float | None,
    name: str,
    version: str,
    out: Path | None,
    run: Path,
    item: str | None,
) -> None:
    """Train and package the encoder that the view <item>_embedding is computed with.

    Actions, names of columns and sources are those of the feature repo. It need not have been
    applied, which is not possible before its encoder exists. Without a feature repo, give files.
    """
    with training("train"):
        from activity_embeddings.training.item_encoder import train as item_encoder
        from activity_embeddings.training.item_encoder.data import EncoderData
        from activity_embeddings.training.item_encoder.towers import TowerSettings
        from activity_embeddings.training.objectives import NextPositive
        from activity_embeddings.training.packaging import package_item_encoder, package_model

        objective = objective_with(NextPositive, objective_settings)
        built = network.build()
        data = EncoderData.of(repo, item)
        given = fit.given(learning_rate=learning_rate)
        plan = item_encoder.EncoderPlan(
            until,
            dimension=dimension,
            spec=data.spec,
            item_id=data.names.item_id,
            towers=TowerSettings(text=sources.text, categories=sources.category),
            objective=objective,
            fit=replace(item_encoder.ENCODER_FIT, **given),
            network=built,
        )
        events = data.events(sources.events, until)
        content = [*sources.text, *sources.category]
        postings = data.postings(sources.postings, content, until)
        out = data.folder() if out is None else out
        towers = item_encoder.train_towers(events, postings, plan, run=run, verbose=1)
        encoder = package_item_encoder(
            towers.encoder, out, name=name, version=version, valid_from=until, **towers.facts
        )
        click.echo(f"{encoder.summary()}\n{out}")
        if network.network_out is not None:
            model = package_model(
                towers.member_tower,
                network.network_out,
                name=network.network_out.name,
                version=version,
                spec=plan.spec,
                vector_spec=encoder.vector_spec,
                sequences=towers.sequences,
                **towers.facts,
            )
            click.echo(f"{model.summary()}\n{network.network_out}")
