"""Rank candidate jobs for one member: two online calls and a dot product.

The member's vector is computed as of the request, with activity that is seconds old; the jobs'
vectors are fetched as they are. After `make evaluate` and `feast materialize` in build/entree:

    python examples/rank_jobs.py --repo build/entree --member 5344 --at 1999-03-31T04:00:00+00:00
    python examples/rank_jobs.py --repo build/entree --member 5344 --at 1999-03-31T04:00:00+00:00 \
        --recent 230 SAVE 1999-03-31T03:59:30+00:00
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from feast import FeatureService, FeatureStore

from activity_embeddings import entity_rows

JobId: TypeAlias = int | str
Time: TypeAlias = datetime | str

SERVICE = "recommendations_v2_realtime"
CANDIDATES = 500
SHOWN = 10


def rank_jobs(
    store: FeatureStore,
    member_id: int | str,
    job_ids: Sequence[JobId],
    recent: Sequence[tuple[JobId, str, Time]] = (),
    *,
    service: FeatureService | str = SERVICE,
    request_timestamp: Time | None = None,
) -> list[tuple[JobId, float]]:
    """Order jobs by how near they are to where a member is heading.

    Parameters
    ----------
    store : the feature store.
    member_id : whose jobs these are.
    job_ids : the candidates.
    recent : (job, action, time) of activity that the stored sequence may not hold yet. What it
        does hold counts once.
    service : with one `activity_embedding`. A server fetches it once and passes the object:
        looking it up by name costs milliseconds in every request.
    request_timestamp : as of when; None is now.

    Returns
    -------
    list of (job, score). Scores are cosines, best first; 0 for a member without activity. Jobs
        without a vector come last, with minus infinity. Jobs of one score stay in their order.
    """
    if not job_ids:
        return []
    if isinstance(service, str):
        service = store.get_feature_service(service)
    rows = entity_rows([member_id], {member_id: recent}, request_timestamp=request_timestamp)
    member = store.get_online_features(service, rows).to_dict()
    candidates = store.get_online_features(
        ["job_embedding:embedding"], {"job_id": list(job_ids)}
    ).to_dict()
    return order_by_cosine(member["activity_embedding"][0], job_ids, candidates["embedding"])


def order_by_cosine(
    member: Sequence[float],
    job_ids: Sequence[JobId],
    vectors: Sequence[Sequence[float] | None],
) -> list[tuple[JobId, float]]:
    """Order jobs by the cosine of their vector and the member's; see `rank_jobs`.

    Examples
    --------
    >>> order_by_cosine([1.0, 0.0], [7, 8, 9], [[0.0, 2.0], None, [3.0, 0.0]])
    [(9, 1.0), (7, 0.0), (8, -inf)]
    """
    known = [i for i, vector in enumerate(vectors) if vector is not None]
    scores = np.full(len(job_ids), -np.inf)
    if known:
        matrix = np.array([vectors[i] for i in known])
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(member)
        scores[known] = matrix @ np.array(member) / np.where(lengths, lengths, 1.0)
    return [(job_ids[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]


def main() -> None:
    """Print the best of some candidates."""
    options = _options()
    store = FeatureStore(repo_path=str(options.repo))
    titles = _titles(options.repo / "data" / "job_postings.parquet")
    jobs = options.jobs or list(titles)[-CANDIDATES:]
    recent = [(int(job), action, time) for job, action, time in options.recent]
    ranked = rank_jobs(store, options.member, jobs, recent, request_timestamp=options.at)
    print(f"the best of {len(jobs)} jobs for member {options.member}:")
    for job, score in ranked[:SHOWN]:
        print(f"  {score:6.3f}  {titles.get(job, f'job {job}')}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--repo", type=Path, default=Path("build/entree"))
    add("--member", type=int, required=True)
    add("--jobs", type=int, nargs="+", help=f"candidates; default: the last {CANDIDATES} postings")
    add("--at", help="as of this ISO 8601 time with its zone; default: now")
    add(
        "--recent",
        nargs=3,
        action="append",
        default=[],
        metavar=("JOB", "ACTION", "TIME"),
        help="activity of the last seconds; repeat for more",
    )
    options = parser.parse_args()
    if not options.jobs and not (options.repo / "data" / "job_postings.parquet").exists():
        parser.error("--jobs is needed where there is no data/job_postings.parquet")
    return options


def _titles(file: Path) -> dict[Any, str]:
    """Return titles by job, none where there is no such file."""
    if not file.exists():
        return {}
    import pyarrow.parquet as pq

    postings = pq.read_table(file, columns=["job_id", "title"]).to_pydict()
    return dict(zip(postings["job_id"], postings["title"], strict=True))


if __name__ == "__main__":
    main()
