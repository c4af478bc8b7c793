"""The command that writes a simulated market."""

import argparse
import inspect
import re
from datetime import UTC, datetime
from pathlib import Path

import activity_embeddings.training.datasets.job_market
from activity_embeddings.training.datasets.job_market.market import JobMarket
from activity_embeddings.training.datasets.job_market.sessions import ACTIONS
from activity_embeddings.training.datasets.job_market.settings import RANGES, MarketSettings
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.wording import share


def _midnight(text: str) -> datetime:
    """Return the start of a day given as in 2024-01-01."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a day such as 2024-01-01. Received: {text!r}"
        ) from error


def _meanings() -> dict[str, str]:
    """Return what each setting means: the text under its name in the docstring of the settings."""
    _, parameters = (inspect.getdoc(MarketSettings) or "").split("Parameters\n", 1)
    entries = re.findall(r"^(\w+)((?:\n    .*)+)", parameters, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def main(argv: list[str] | None = None) -> None:
    """Run from the command line and print the counts.

    Parameters
    ----------
    argv
        Arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m activity_embeddings.training.datasets.job_market",
        description=activity_embeddings.training.datasets.job_market.__doc__.split("\n", 1)[0],
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--start", type=_midnight, default=JobMarket.start, help="first day, by default %(default)s"
    )
    parser.add_argument(
        "--kinds", action="store_true", help="write what members search, announce and read too"
    )
    meanings = _meanings()
    for name, (kind, low, high) in RANGES.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=getattr(JobMarket, name),
            metavar=kind.__name__.upper(),
            help=f"{meanings[name]} From {low:,} to {high:,}, by default %(default)s.".strip(),
        )
    arguments = vars(parser.parse_args(argv))
    out_dir, kinds = arguments.pop("out"), arguments.pop("kinds")
    try:
        counts = JobMarket(**arguments).write(out_dir, kinds=kinds)
    except InvalidInput as error:
        parser.error(str(error))
    for name, count in counts.items():
        print(f"{name}: {share(count) if name in ACTIONS else f'{count:,}'}")


if __name__ == "__main__":
    main()
