"""The command that writes a simulated market."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

import training.job_market
from training.job_market.market import JobMarket
from training.job_market.sessions import ACTIONS
from training.job_market.settings import RANGES
from transformations.errors import InvalidInput


def _midnight(text: str) -> datetime:
    """Return the start of a day given as in 2024-01-01."""
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line and print the counts.

    Parameters
    ----------
    argv : list[str], optional
        Arguments, those of the process by default.
    """
    parser = argparse.ArgumentParser(description=training.job_market.__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--start", type=_midnight, default=JobMarket.start, help="first day, by default %(default)s"
    )
    for name, (kind, low, high) in RANGES.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=getattr(JobMarket, name),
            help=f"from {low:,} to {high:,}, by default %(default)s",
        )
    arguments = vars(parser.parse_args(argv))
    out_dir = arguments.pop("out")
    try:
        counts = JobMarket(**arguments).write(out_dir)
    except InvalidInput as error:
        parser.error(str(error))
    for name, count in counts.items():
        print(f"{name}: {count:.1%}" if name in ACTIONS else f"{name}: {count:,}")


if __name__ == "__main__":
    main()
