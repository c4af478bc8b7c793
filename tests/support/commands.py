"""The commands `feast`, `activity-embeddings` and `python`, started at once by `processes`."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import processes

_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    asked = [{code!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    status = server.recv(16)
sys.exit(int(status or 1))
"""

# One process waits for each command, so that several may run at once and each has its own status.
# The server ends by itself where who started it was killed.
_SERVER = """
import json, os, signal, socket, sys
from support.processes import read_environment
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
server.settimeout(5)
print("ready", flush=True)
while True:
    try:
        client, _ = server.accept()
    except TimeoutError:
        os.kill(int(sys.argv[2]), 0)
        continue
    asked, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
    if os.fork():
        client.close()
        for file in files:
            os.close(file)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    command = os.fork()
    if command:
        status = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        client.sendall(str(status if status >= 0 else 128 - status).encode())
        os._exit(0)
    client.close()
    server.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    code, arguments, folder, environment = json.loads(asked)
    os.chdir(folder)
    os.environ.update(environment)
    read_environment()
    sys.argv = ["-c", *arguments]
    sys.stdin = open(0, closefd=False)
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
    break
"""


@contextmanager
def commands(folder: Path) -> Iterator[Path]:
    """Fill a folder with the commands, which work while the body runs."""
    address = folder / "socket"
    for name, code in (
        ("feast", processes.FEAST),
        ("activity-embeddings", processes.COMMAND),
        ("python", processes.PYTHON),
    ):
        client = folder / name
        client.write_text(_CLIENT.format(python=sys.executable, socket=str(address), code=code))
        client.chmod(client.stat().st_mode | stat.S_IXUSR)
    server = processes.start(_SERVER, address, str(os.getpid()))
    try:
        server.wait_for("ready")
        yield folder
    finally:
        server.kill()
