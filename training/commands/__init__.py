"""The command `activity-embeddings`: commands that begin, serve, train and measure.

This is the one place where they come together. A command imports what it needs when it runs, so
that `--help` answers at once.
"""

from __future__ import annotations

import click

from activity_embeddings.training.commands.evaluate import compare, evaluate
from activity_embeddings.training.commands.init import init
from activity_embeddings.training.commands.item_encoder import train_item_encoder
from activity_embeddings.training.commands.measure import measure
from activity_embeddings.training.commands.train import models, package, train, tune
from activity_embeddings.transformations.cli import cli as serving

__all__ = ["cli"]

_TRAINING = (init, train, tune, package, models, train_item_encoder, measure, evaluate, compare)

cli = click.Group(
    commands=[*serving.commands.values(), *_TRAINING],
    params=serving.params,
    callback=serving.callback,
    help=serving.help,
)
