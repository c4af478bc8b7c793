"""The command that trains and packages an item encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import click

from activity_embeddings.training.commands.options import FOLDER, grouped, training
from activity_embeddings.transformations.cli import Moment, item_option

_FILES = click.Path(exists=True, path_type=Path)


@dataclass(frozen=True)
class Sources:
    """What the encoder is trained on: files, where they are given, and columns of postings."""

    events: Path | None
    postings: Path | None
    text: tuple[str, ...]
    category: tuple[str, ...]


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
@click.option(
    "--until",
    type=Moment(),
    required=True,
    help="End of training. No later event is read, and vectors are valid from then on.",
)
@click.option("--dimension", default=64, show_default=True, help="Length of a vector.")
@click.option("--epochs", type=int, help="Maximum number of passes over the examples.")
@click.option("--seed", default=0, show_default=True, help="Random seed.")
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
    until: datetime,
    dimension: int,
    epochs: int | None,
    seed: int,
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
        from activity_embeddings.training.packaging import package_item_encoder

        data = EncoderData.of(repo, item)
        fit = replace(item_encoder.ENCODER_FIT, seed=seed)
        plan = item_encoder.EncoderPlan(
            until,
            dimension=dimension,
            spec=data.spec,
            item_id=data.names.item_id,
            towers=TowerSettings(text=sources.text, categories=sources.category),
            fit=fit if epochs is None else replace(fit, epochs=epochs),
        )
        events = data.events(sources.events, until)
        content = [*sources.text, *sources.category]
        postings = data.postings(sources.postings, content, until)
        out = data.folder() if out is None else out
        module, facts = item_encoder.train_item_encoder(events, postings, plan, run=run, verbose=1)
        described = package_item_encoder(
            module, out, name=name, version=version, valid_from=until, **facts
        )
        click.echo(f"{described.summary()}\n{out}")
