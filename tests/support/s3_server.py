"""S3 for tests: the server of moto, a process that answers over HTTP, on a free port.

It keeps objects in memory and checks no credentials. It is no storage of Amazon's: what it shows is
that the protocol is spoken right.
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.fs import S3FileSystem

from support.servers import free_port

SECONDS_TO_START = 60
REGION = "us-east-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a client finds in its environment."""


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server while the body runs; give its address."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="s3-") as folder:
        log = Path(folder) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **CREDENTIALS},
            )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(process, address, log)
            yield address
        finally:
            process.terminate()
            process.wait()


def make_bucket(address: str, name: str) -> str:
    """Make a bucket; return its URI."""
    filesystem = S3FileSystem(
        endpoint_override=address,
        access_key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        secret_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region=REGION,
        allow_bucket_creation=True,
    )
    filesystem.create_dir(name)
    return f"s3://{name}"


def _wait(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/moto-api/", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"the server of moto did not start:\n{log.read_text()}")
