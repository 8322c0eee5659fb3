"""A real browser for tests: headless Chromium, spoken to over a pipe (no port, no server, no extra package)."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 60.0
"""Seconds to wait for an answer, on a busy machine."""


class Browser:
    """One browser with one page. Collects the page's errors and requests from the start of each `open`.

    Use as a context manager; leaving it ends the browser and removes its profile.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._waiting = b""
        self._number = 0
        self._session: str | None = None

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp(prefix="browser-")
        questions, self._out = os.pipe()
        self._in, answers = os.pipe()
        # Chromium reads descriptor 3 and writes 4; numbers from 10 on cannot be in the way of either.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (questions, answers)]
        self._process = os.posix_spawn(
            self.program,
            [self.program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            dict(os.environ),
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, standard, os.devnull, os.O_RDWR, 0) for standard in (0, 1, 2)),
                (os.POSIX_SPAWN_DUP2, high[0], 3),
                (os.POSIX_SPAWN_DUP2, high[1], 4),
            ],
            setsid=True,
        )
        for end in (questions, answers, *high):
            os.close(end)
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Loads a local file in a window of this size; below 600 pixels as a phone with a touch screen would."""
        phone = width < 600
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self.errors.clear()
        self.requests.clear()
        self._ask("Page.navigate", url=page.as_uri())
        end = time.monotonic() + PATIENCE
        while self.run("document.readyState") != "complete" or self.run("location.href") != page.as_uri():
            if time.monotonic() > end:
                raise TimeoutError(f"{page} did not load in {PATIENCE:.0f} seconds")
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """Evaluates an expression in the page and returns its value as JSON would carry it."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def move_mouse(self, x: float, y: float) -> None:
        """Moves the pointer there, as a hand would."""
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Presses and releases the left button there."""
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, x: float, y: float) -> None:
        """Touches the screen there."""
        self._ask("Emulation.setTouchEmulationEnabled", enabled=True)
        self._ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self._ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def screenshot(self, path: Path) -> None:
        """Writes the whole page as PNG."""
        answer = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        question: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            question["sessionId"] = self._session
        os.write(self._out, json.dumps(question).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self._in], [], [], PATIENCE)
            part = os.read(self._in, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError(f"{self.program} ended or did not answer in {PATIENCE:.0f} seconds")
            self._waiting += part
        message, self._waiting = self._waiting.split(b"\0", 1)
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(event["params"]["exceptionDetails"].get("exception", {}).get("description", "?"))
            case "Log.entryAdded":
                self.errors.append(event["params"]["entry"]["text"])
            case "Runtime.consoleAPICalled":
                self.errors.append(str([arg.get("value") for arg in event["params"]["args"]]))
            case "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
