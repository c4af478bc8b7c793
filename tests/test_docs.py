"""The blocks of the pages that a newcomer follows run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import processes
from support.commands import commands

pytestmark = [pytest.mark.slow, pytest.mark.process]

PROJECT = Path(__file__).parents[1]
RUNNER = PROJECT / "tools" / "run_blocks.py"


def run(page: Path, folder: Path, *more: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, RUNNER, page, "--in", folder, *more],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_every_block_of_a_page_runs(page, tmp_path):
    """Its commands are forks of a process that has imported Feast and TensorFlow.

    `make demo` and the wheel's test start whole interpreters, and the demo trains all epochs.
    """
    text = (PROJECT / page).read_text(encoding="utf-8")
    shorter = re.sub(r"--epochs \d+", "--epochs 1", text)
    assert (shorter != text) == (page == "docs/tutorial.md")
    (tmp_path / "page.md").write_text(shorter, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    with commands(tmp_path / "bin") as folder:
        done = run(tmp_path / "page.md", tmp_path / "here", "--commands", folder)
    assert done.returncode == 0, done.stdout + done.stderr


BUILD = """
from activity_embeddings import ActivitySpec, ItemVectorSpec

made = models.architecture("wide_cnn")()
assert made.build(ActivitySpec(), ItemVectorSpec("own", "1", 8)).outputs
"""


def test_the_architecture_of_the_guide_can_be_registered_and_built():
    """In a process of its own, since it registers a model."""
    page = (PROJECT / "docs" / "how-to" / "train.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```.*python.*\n((?:.*\n)*?)```", page, re.MULTILINE)
    (block,) = [block for block in blocks if "register(" in block]
    done = processes.run(block + BUILD)
    assert done.returncode == 0, done.stderr


PAGE = """
# One

```bash
mkdir inner && cd inner
```

```python
number = 41
```

```text
not run
```

```python
from pathlib import Path
print(number + 1, Path.cwd().name)
```

# Two

```bash
false
```
"""


def test_a_block_knows_what_earlier_ones_did_and_the_first_that_fails_ends_the_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    whole = run(page, tmp_path / "whole")
    assert "42 inner" in whole.stdout and "not run" not in whole.stdout
    assert whole.returncode != 0 and f"{page}:{PAGE.count(chr(10)) - 2}" in whole.stderr
    part = run(page, tmp_path / "part", "--until", "Two")
    assert part.returncode == 0, part.stderr


def test_a_python_block_that_raises_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nraise ValueError('no')\n```\n")
    done = run(page, tmp_path / "folder")
    assert done.returncode != 0 and "no" in done.stdout
