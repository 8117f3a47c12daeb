"""A browser to look at pages with, by Chromium's own protocol and nothing else: real time, real clicks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

NAMES = ("chromium", "chromium-browser", "google-chrome")
WORDS = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--window-size=1000,900", "--remote-debugging-port=0",
         "--remote-allow-origins=*"]  # fmt: skip
WAIT = 40.0


def found() -> str | None:
    """Path of a browser, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser without a window, as a context; one page at a time."""

    def __init__(self, profile: Path) -> None:
        self.profile = profile
        self.socket: socket.socket | None = None
        self.calls = 0

    def __enter__(self) -> Browser:
        command = [str(found()), *WORDS, f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = self.profile / "DevToolsActivePort"
        until = time.monotonic() + WAIT
        while not (port.is_file() and port.read_text().strip()):
            if time.monotonic() > until or self.process.poll() is not None:
                self.__exit__()
                raise RuntimeError("Chromium does not start")
            time.sleep(0.05)
        self.port = int(port.read_text().splitlines()[0])
        return self

    def __exit__(self, *_: object) -> None:
        if self.socket is not None:
            self.socket.close()
        self.process.kill()
        self.process.wait()

    def open(self, address: str) -> None:
        """A new page."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/json/new?{quote(address, safe='')}", method="PUT"
        )
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            path = json.load(answer)["webSocketDebuggerUrl"].split(f":{self.port}", 1)[1]
        self.socket = socket.create_connection(("127.0.0.1", self.port), WAIT)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\n"
                            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
                            .encode())  # fmt: skip
        while not self._exactly(1, until=b"\r\n\r\n").endswith(b"\r\n\r\n"):
            continue
        self.call("Page.bringToFront")  # a page in the background draws no frames

    def call(self, method: str, **parameters: object) -> dict:
        """One command of the protocol; its result."""
        self.calls += 1
        self._send(json.dumps({"id": self.calls, "method": method, "params": parameters}).encode())
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self.calls:
                return answer.get("result", answer)

    def value(self, expression: str) -> object:
        """What an expression of JavaScript, or its promise, comes to in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"].get("text", "") + str(told["result"].get("description", "")))
        return told["result"].get("value")

    def until(self, expression: str) -> object:
        """The value of an expression as soon as there is one."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            if (value := self.value(expression)) not in (None, "", False):
                return value
            time.sleep(0.1)
        raise RuntimeError(f"{expression}: nothing after {WAIT:.0f} s; the viewer says: "
                           f"{self.value('document.getElementById(`viewer-text`)?.textContent')}")  # fmt: skip

    def click(self, x: float, y: float) -> None:
        """The left button, at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """One key, down and up."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def _send(self, data: bytes) -> None:
        length = len(data)
        head = struct.pack("!BB", 0x81, 0x80 | length) if length < 126 else struct.pack("!BBH", 0x81, 0xFE, length)
        self.socket.sendall(head + bytes(4) + data)  # a mask of zeros

    def _message(self) -> bytes:
        data = b""
        while True:
            first, second = self._exactly(2)
            length = second & 127
            if length > 125:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
            data += self._exactly(length)
            if first & 0x80:
                return data

    def _exactly(self, count: int, until: bytes = b"") -> bytes:
        data = b""
        while len(data) < count or (until and not data.endswith(until)):
            more = self.socket.recv(1 if until else count - len(data))
            if not more:
                raise RuntimeError("Chromium has gone")
            data += more
        return data
