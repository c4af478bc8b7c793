"""Run the shell and Python blocks of a Markdown page, in order, as a reader would.

    python tools/run_blocks.py docs/tutorial.md --in FOLDER [--until HEADING]

A block of `bash` or `python` is run; any other is shown and not run. All blocks of one page share a
folder, and those of one language a process: what one block defines, the next one knows. The first
block that fails ends the run with its exit status.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_END = "--- end of block ---"


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int


def blocks_of(page: str, until: str | None = None) -> list[Block]:
    """Return the blocks of a page that are run, in order, up to a heading."""
    if until is not None:
        found = re.search(rf"^#+ {re.escape(until)}$", page, re.MULTILINE)
        if found is None:
            raise SystemExit(f"expected a heading {until!r}. Received: none")
        page = page[: found.start()]
    found_blocks = []
    for match in _FENCE.finditer(page):
        indent, language, text = match.groups()
        if language in ("bash", "python"):
            lines = [line.removeprefix(indent) for line in text.splitlines()]
            line = page.count("\n", 0, match.start()) + 1
            found_blocks.append(Block(language, "\n".join(lines), line))
    return found_blocks


class _Process:
    """An interpreter that runs one block after the other."""

    def __init__(self, command: list[str], ending: str, folder: Path) -> None:
        self._ending = ending
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, text: str) -> Iterator[str]:
        """Yield the lines that a block prints; raise `SystemExit` if it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(f"{text}\n{self._ending}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        for line in self._process.stdout:
            if line.rstrip("\n").endswith(_END):
                yield line.rstrip("\n").removesuffix(_END)
                return
            yield line.rstrip("\n")
        raise SystemExit(self._process.wait() or 1)

    def close(self) -> None:
        """End the interpreter."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# Reads blocks from standard input, each up to the line that ends it; all share one namespace.
_PYTHON = f"""
import os, sys
names = {{"__name__": "__main__"}}
lines = []
for line in sys.stdin:
    if line.rstrip() != {_END!r}:
        lines.append(line)
        continue
    if lines[0].startswith("# cd "):
        os.chdir(lines[0].split()[2])
    exec(compile("".join(lines), "<block>", "exec"), names)
    print({_END!r}, flush=True)
    lines = []
"""


def run_page(
    path: Path, folder: Path, until: str | None = None, commands: Path | None = None
) -> None:
    """Run the blocks of a page in a folder, and print them with what they print."""
    first = [str(commands)] if commands else []
    own = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([*first, own, os.environ["PATH"]])
    shell = _Process(["bash", "-eo", "pipefail"], f"pwd > {folder}/.where; echo {_END!r}", folder)
    interpreter = shutil.which("python", path=commands) or sys.executable
    python = _Process([interpreter, "-u", "-W", "ignore", "-c", _PYTHON], _END, folder)
    processes = {"bash": shell, "python": python}
    started = time.perf_counter()
    try:
        for block in blocks_of(path.read_text(encoding="utf-8"), until):
            begun = time.perf_counter()
            prompt = "$ " if block.language == "bash" else ">>> "
            print("\n".join(f"{prompt}{line}" for line in block.text.splitlines()), flush=True)
            text = block.text
            if block.language == "python":
                where = folder / ".where"
                here = where.read_text().strip() if where.exists() else folder
                text = f"# cd {here}\n{text}"
            try:
                for line in processes[block.language].run(text):
                    print(line, flush=True)
            except SystemExit as failure:
                print(f"{path}:{block.line}: this block failed", file=sys.stderr, flush=True)
                raise SystemExit(failure.code or 1) from None
            print(f"   {time.perf_counter() - begun:.1f} s\n", flush=True)
    finally:
        shell.close()
        python.close()
    print(f"{path.name}: {time.perf_counter() - started:.0f} s")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--in", dest="folder", type=Path, required=True, help="Working folder.")
    parser.add_argument("--until", help="Heading before which to stop.")
    parser.add_argument(
        "--commands", type=Path, help="Folder of commands to use first, `python` too."
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    run_page(arguments.page, arguments.folder.resolve(), arguments.until, arguments.commands)


if __name__ == "__main__":
    main()
