"""An environment in which no extra is installed: this one, without the packages of the extras."""

import sys
from pathlib import Path

from activity_embeddings.transformations.extras import MODULES

# Feast depends on Jinja, so it is there without the extra that names it.
LEFT_OUT = {name for names in MODULES.values() for name in names} - {"jinja2"}


def link_core(folder: Path) -> Path:
    """Fill a folder with links to the installed packages that the core may use.

    The editable install of this project is none of them.
    """
    folder.mkdir()
    for site in (Path(path) for path in sys.path if path.endswith("site-packages")):
        for entry in site.iterdir():
            link = folder / entry.name
            if entry.name not in LEFT_OUT and entry.suffix != ".pth" and not link.is_symlink():
                link.symlink_to(entry)
    return folder
