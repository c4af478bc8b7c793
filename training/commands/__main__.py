"""`python -m activity_embeddings.training.commands` is `activity-embeddings`."""

from activity_embeddings.training.commands import cli

cli(prog_name="activity-embeddings")
