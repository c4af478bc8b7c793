"""What the README shows in Python runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
IMPORTS = "from dataclasses import dataclass\nfrom keras import ops\n"


def test_a_new_architecture_is_as_short_as_the_readme_says():
    """In a process of its own, since it registers a model."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (block,) = [block for block in blocks if "@register(" in block]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS + block], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
