"""The data sets that come with the package, and a feature repo for each of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from activity_embeddings.training.datasets.base import POSTINGS_FILE, TRUTH, Sample
from activity_embeddings.training.datasets.entree import ENTREE
from activity_embeddings.training.datasets.eshop import ESHOP
from activity_embeddings.training.datasets.job_market.sample import JOBS, MarketSample
from activity_embeddings.training.datasets.movietweetings import FILMS
from activity_embeddings.training.new_repo import render
from activity_embeddings.training.new_repo.create import write_definitions
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import real_path

__all__ = ["ENTREE", "ESHOP", "FILMS", "JOBS", "TRUTH", "MarketSample", "Sample"]

SAMPLES: dict[str, Sample] = {sample.name: sample for sample in (ENTREE, ESHOP, FILMS, JOBS)}
LEARNED = "cnn"
"""The learned model that is published beside the formulas."""
SERVICE = "recommendations_v2"
"""Its feature service."""


def make_sample_repo(repo: Path, sample: Sample) -> None:
    """Make a feature repo of a data set: definitions with a line for the CNN, and the data.

    Parameters
    ----------
    repo
        Folder to make. One that was made before for such a data set is replaced.
    sample
        The data set.

    Raises
    ------
    InvalidInput
        There is something else in the folder.
    """
    repo = real_path(repo)
    if repo.exists() and (repo.is_file() or any(repo.iterdir())):
        if not (repo / "data" / (TRUTH if sample.simulated else POSTINGS_FILE)).exists():
            raise InvalidInput(
                f"{repo}: expected a new folder, or one that an earlier demo made, which is "
                "replaced. Received: one with something else"
            )
        shutil.rmtree(repo)
    repo.mkdir(parents=True, exist_ok=True)
    write_definitions(repo, sample.settings)
    lines, services = repo / "activity_models.py", repo / "services.py"
    lines.write_text(render.activity_models_py(lines.read_text(), LEARNED))
    services.write_text(render.services_py(services.read_text(), SERVICE, LEARNED))
    sample.write(repo / "data")
