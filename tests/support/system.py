"""What tests need of the system, and which of them are left out where it is missing."""

import ctypes.util
import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# Debian keeps what starts a server out of PATH.
POSTGRES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/usr/pgsql-*/bin")
REQUIRED = "REQUIRE_SYSTEM_PACKAGES"
"""Environment variable: where it is set, an error says what is missing of what CI runs."""

MEMORY, ROOM = Path("/dev/shm"), 4 << 30
"""The folder in memory, and how many bytes have to be free for it to be used."""


@dataclass(frozen=True)
class Need:
    """A package of Debian that some tests need: those with a mark, or all of some folders."""

    package: str
    found: bool
    mark: str = ""
    folders: tuple[str, ...] = ()
    in_ci: bool = True

    def __str__(self) -> str:
        what = f"marked `{self.mark}`" if self.mark else f"in {', '.join(self.folders)}"
        left_out = f"the tests {what} are left out: {self.package} is missing. "
        if self.in_ci:
            return f"{left_out}Run as root: apt-get install {self.package}"
        return f"{left_out}Run make test-{self.mark}"


def missing() -> list[Need]:
    """Return what the system lacks."""
    needs = [
        Need("redis-server", bool(shutil.which("redis-server")), mark="redis"),
        Need("postgresql", bool(postgres_program("initdb")), mark="postgres"),
        Need("mariadb-server or PyMySQL", _has_mysql(), mark="mysql", in_ci=False),
        Need("chromium", any(map(shutil.which, CHROMIUM)), mark="browser"),
        # LightGBM cannot be imported without, so these modules are not even read.
        Need(
            "libgomp1",
            bool(ctypes.util.find_library("gomp")),
            folders=("training/evaluation", "test_evaluate_command.py"),
        ),
    ]
    return [need for need in needs if not need.found]


def _has_mysql() -> bool:
    """Return whether there are a MySQL and a client, which `make test-mysql` installs."""
    return bool(shutil.which("mariadbd")) and find_spec("pymysql") is not None


def left_out(path: Path, tests: Path) -> bool:
    """Return whether a file is in a folder whose tests are left out."""
    folders = [tests / folder for need in missing() for folder in need.folders]
    return any(path.is_relative_to(folder) for folder in folders)


def postgres_program(name: str) -> str | None:
    """Return the path of one of the server's programs, None where it is not installed."""
    found = shutil.which(name)
    if found:
        return str(Path(found).resolve())
    matches = [path for folder in POSTGRES for path in Path("/").glob(f"{folder[1:]}/{name}")]
    return str(max(matches)) if matches else None


def folder_in_memory() -> Path | None:
    """Return a folder that lies in memory, None where it lacks room or nothing can be run in it."""
    if not os.access(MEMORY, os.W_OK):
        return None
    about = os.statvfs(MEMORY)
    roomy = about.f_bavail * about.f_frsize >= ROOM
    return MEMORY if roomy and not about.f_flag & os.ST_NOEXEC else None
