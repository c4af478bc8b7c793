"""A real MariaDB for tests: a server of its own on a free port, gone when the tests end."""

import getpass
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pymysql

from support.servers import answers, free_port

SECONDS_TO_START = 30
USER, PASSWORD = "feast", "word"


@contextmanager
def mysql_server() -> Iterator[dict[str, Any]]:
    """Run a MariaDB while the body runs; give what a user of all databases connects with."""
    binary = shutil.which("mariadbd")
    assert binary, "mariadbd is missing: apt-get install mariadb-server (make test-mysql does)"
    with tempfile.TemporaryDirectory(prefix="mysql-", dir="/tmp") as folder:
        data, socket, me = Path(folder) / "data", f"{folder}/socket", f"--user={getpass.getuser()}"
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", me]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, capture_output=True)
        port = free_port()
        options = ["--no-defaults", f"--datadir={data}", f"--socket={socket}", me]
        options += [f"--port={port}", "--bind-address=127.0.0.1", f"--pid-file={folder}/pid"]
        process = subprocess.Popen(
            [binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            ask = partial(_take_user, socket)
            started = answers(process, ask, pymysql.OperationalError, seconds=SECONDS_TO_START)
            assert started, "MariaDB did not start"
            yield {"host": "127.0.0.1", "port": port, "user": USER, "password": PASSWORD}
        finally:
            process.terminate()
            process.wait()


def _take_user(socket: str) -> bool:
    with pymysql.connect(unix_socket=socket, user="root") as connection:
        connection.cursor().execute(f"GRANT ALL ON *.* TO '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'")
    return True
