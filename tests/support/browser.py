"""A real Chromium without a screen, driven over its DevTools pipe, to look at pages as readers do.

The pipe (`--remote-debugging-pipe`) takes and gives JSON messages that end with a NUL, so nothing
beyond the standard library is needed, and a window can be narrower than Chromium's own minimum.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.system import CHROMIUM

SECONDS_TO_ANSWER = 30


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a Chromium with an empty profile while the body runs."""
    binary = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert binary, "chromium is missing: apt-get install chromium"
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        their_read, our_write = _pipe()
        our_read, their_write = _pipe()
        process = subprocess.Popen(
            [
                # Chromium reads file descriptor 3 and writes 4; only a shell can put them there
                # without running code between fork and exec.
                *("bash", "-c", f'exec "$@" 3<&{their_read} 4>&{their_write}', "bash", binary),
                *("--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"),
                *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
                *("--hide-scrollbars", "--disable-background-networking"),
                "about:blank",
            ],
            pass_fds=(their_read, their_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_read)
        os.close(their_write)
        try:
            yield Browser(our_read, our_write)
        finally:
            process.kill()
            process.wait()
            os.close(our_read)
            os.close(our_write)


def _pipe() -> tuple[int, int]:
    """Make a pipe whose ends are not among the numbers that the shell is to fill."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


class Browser:
    """One tab. `messages` holds what the console said and `requests` what was asked for, by URL."""

    def __init__(self, read: int, write: int):
        self._read, self._write = read, write
        self._buffer = b""
        self._sent = 0
        self._session: str | None = None
        self._loaded: set[str] = set()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._size = (1280, 900)
        targets = self._call("Target.getTargets")["targetInfos"]
        (page,) = [target["targetId"] for target in targets if target["type"] == "page"]
        attached = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Page.setLifecycleEventsEnabled", enabled=True)

    def open(
        self, page: Path | str, width: int = 1280, height: int = 900, *, dark: bool = False
    ) -> Browser:
        """Load a file or a URL in a window of CSS pixels; `messages` and `requests` start anew."""
        self.media("screen", dark=dark)
        self._resize(width, height)
        self.messages, self.requests = [], []
        # By its loader, the page is told from one that was there before.
        url = page.resolve().as_uri() if isinstance(page, Path) else page
        loader = self._call("Page.navigate", url=url)["loaderId"]
        if loader not in self._loaded:
            self._until(lambda _: loader in self._loaded, f"loading {page}")
        return self

    def media(self, medium: str, *, dark: bool = False) -> None:
        """Show the page as on "screen" or in "print"."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=medium, features=[scheme])

    def evaluate(self, script: str) -> Any:
        """Return the JSON value of an expression in the page; of a promise, once it is kept."""
        options = {"returnByValue": True, "awaitPromise": True}
        got = self._call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def screenshot(self, file: Path, *, whole: bool = False) -> Path:
        """Write a PNG of the window or, if `whole`, of the page at the window's width."""
        width, height = self._size
        if whole:
            tall = self.evaluate(
                "Math.ceil(document.documentElement.getBoundingClientRect().height)"
            )
            self._resize(width, tall)
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))
        self._resize(width, height)
        return file

    def pdf(self, file: Path) -> Path:
        """Print on the paper that the page asks for."""
        # A medium that was set would be that of the paper too.
        self.media("")
        printed = self._call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        file.write_bytes(base64.b64decode(printed["data"]))
        return file

    def _resize(self, width: int, height: int) -> None:
        self._size = (width, height)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda got: got.get("id") == message["id"], method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _until(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Take messages until one that is wanted, and note the others."""
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while True:
            while b"\0" not in self._buffer:
                left = max(deadline - time.monotonic(), 0)
                ready = select.select([self._read], [], [], left)[0]
                assert ready, f"chromium: no answer to {what} in {SECONDS_TO_ANSWER} s"
                part = os.read(self._read, 1 << 20)
                assert part, f"chromium ended before it answered {what}"
                self._buffer += part
            line, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(line)
            self._note(message)
            if wanted(message):
                return message

    def _note(self, message: dict[str, Any]) -> None:
        method, about = message.get("method", ""), message.get("params", {})
        if method == "Page.lifecycleEvent" and about["name"] == "load":
            self._loaded.add(about["loaderId"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Log.entryAdded":
            self.messages.append(about["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.messages.append(about["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(str([given.get("value") for given in about["args"]]))


def pdf_pages(file: Path) -> list[str]:
    """Return the text of each page of a PDF that Chromium wrote, without spaces.

    Glyphs are told by their font's `ToUnicode` table; how wide the gaps between them are is not
    looked at, hence no spaces.
    """
    objects = {
        int(number): body
        for number, body in re.findall(
            rb"(?:^|\n)(\d+) 0 obj\b(.*?)\nendobj", file.read_bytes(), re.DOTALL
        )
    }
    characters = {
        number: _unicode_of(_stream(objects[int(table[1])]))
        for number, body in objects.items()
        if (table := re.search(rb"/ToUnicode (\d+) 0 R", body))
    }
    pages = []
    for body in objects.values():
        if re.search(rb"/Type /Page\b", body):
            fonts = {
                name: characters.get(int(number), {})
                for name, number in re.findall(rb"/(F\d+) (\d+) 0 R", body)
            }
            contents = re.search(rb"/Contents (\d+) 0 R", body)
            assert contents
            pages.append(_text_of(_stream(objects[int(contents[1])]), fonts))
    return pages


def _stream(body: bytes) -> bytes:
    data = body.split(b"stream\n", 1)[1].rsplit(b"\nendstream", 1)[0]
    return zlib.decompress(data) if b"/FlateDecode" in body else data


def _unicode_of(table: bytes) -> dict[int, str]:
    found: dict[int, str] = {}
    for block in re.findall(rb"beginbfchar(.*?)endbfchar", table, re.DOTALL):
        for glyph, text in re.findall(rb"<(\w+)> <(\w+)>", block):
            found[int(glyph, 16)] = bytes.fromhex(text.decode()).decode("utf-16-be")
    for block in re.findall(rb"beginbfrange(.*?)endbfrange", table, re.DOTALL):
        for low, high, text in re.findall(rb"<(\w+)> <(\w+)> <(\w+)>", block):
            for step in range(int(high, 16) - int(low, 16) + 1):
                found[int(low, 16) + step] = chr(int(text, 16) + step)
    return found


def _text_of(content: bytes, fonts: dict[bytes, dict[int, str]]) -> str:
    text, font = "", {}
    for name, glyphs in re.findall(rb"/(F\d+) [\d.]+ Tf|<([0-9A-Fa-f]+)>", content):
        if name:
            font = fonts.get(name, {})
        else:
            codes = [int(glyphs[i : i + 4], 16) for i in range(0, len(glyphs), 4)]
            text += "".join(font.get(code, "") for code in codes)
    # Letters that a font draws as one are told as one.
    return "".join(unicodedata.normalize("NFKC", text).split())
