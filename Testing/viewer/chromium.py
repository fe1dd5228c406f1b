# SPDX-License-Identifier: Apache-2.0
"""A real Chromium without a screen, driven over its DevTools protocol: it clicks and looks as people do."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def program() -> str | None:
    """The browser's program; None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Chromium:
    """A browser with one page; a context that ends it."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1440, 900)) -> None:
        self._profile, self._size = profile, size
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.errors: list[str] = []  # what the page's scripts threw

    def __enter__(self) -> Chromium:
        arguments = [
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-port=0",
        ]
        arguments += ["--no-first-run", f"--user-data-dir={self._profile}", "--hide-scrollbars"]
        if hasattr(os, "getuid") and os.getuid() == 0:
            arguments.append("--no-sandbox")
        self._process = subprocess.Popen(
            [program(), *arguments, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._loop.run_until_complete(self._connect())
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
        width, height = self._size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        return self

    def __exit__(self, *_) -> None:
        self._loop.run_until_complete(self._session.close())
        self._loop.close()
        self._process.terminate()
        self._process.wait(30)

    async def _connect(self) -> None:
        import aiohttp

        file = self._profile / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (file.is_file() and file.read_text().count("\n")):
            assert time.monotonic() < until, "Chromium did not start"
            await asyncio.sleep(0.05)
        port = file.read_text().splitlines()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
            url = (await answer.json())["webSocketDebuggerUrl"]
        self._socket = await self._session.ws_connect(url, max_msg_size=0)

    def call(self, method: str, **parameters):
        """Call a method of the protocol; its result."""
        return self._loop.run_until_complete(self._call(method, parameters))

    async def _call(self, method, parameters):
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await asyncio.wait_for(self._socket.receive_json(), 90)
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"])[:500])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def js(self, expression: str):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 60.0):
        """Wait until a JavaScript expression is true, and return it."""
        until = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < until, f"never true: {expression}"
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        return self.js(f"document.querySelector({selector!r})?.innerText ?? ''")

    def click(self, selector: str, *, at: float = 0.5) -> None:
        """Click into an element, at a share of its width."""
        self._click(f"document.querySelector({selector!r})", at)

    def _click(self, element: str, at: float = 0.5) -> None:
        self.wait(f"!!{element}")
        self.js(f"{element}.scrollIntoView({{block: 'nearest'}})")
        before = None
        while before != (place := self._place(element)):  # lists unfold, and what moves cannot be hit
            before = place
            time.sleep(0.1)
        x, y, width, height = place
        self._press(x + at * width, y + height / 2)

    def _place(self, element: str) -> list[float]:
        """Left, top, width and height on the page."""
        return self.js(f"(r => [r.x, r.y, r.width, r.height])({element}.getBoundingClientRect())")

    def _press(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def drag(self, selector: str, button: str, by: tuple[float, float]) -> None:
        """Drag from an element's middle with a button held down."""
        x, y, width, height = self._place(f"document.querySelector({selector!r})")
        x, y = x + width / 2, y + height / 2
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind, share in (
            ("Pressed", 0.0),
            ("Moved", 0.3),
            ("Moved", 0.6),
            ("Moved", 1.0),
            ("Released", 1.0),
        ):
            at = {"x": x + share * by[0], "y": y + share * by[1]}
            held = {"left": 1, "right": 2, "middle": 4}[button]
            self.call(
                "Input.dispatchMouseEvent",
                type=f"mouse{kind}",
                button=button,
                buttons=held,
                clickCount=1,
                **at,
            )
            time.sleep(0.1)  # as slowly as a hand: the page sends moves at most every 10 ms

    def key(self, letter: str) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=letter, text=letter)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=letter)

    def choose(self, selector: str, title: str) -> None:
        """Choose an entry of a drop-down list."""
        self.click(f"{selector} .v-field")
        items = "[...document.querySelectorAll('.v-overlay--active .v-list-item')]"
        self._click(f"{items}.find(e => e.innerText.trim() === {title!r})")
        self.wait("!document.querySelector('.v-overlay--active .v-list-item')")
        self.wait(f"document.querySelector({selector!r}).innerText.includes({title!r})")

    def picture(self, selector: str | None = None, path: Path | None = None) -> np.ndarray:
        """What an element, or the page, looks like: (rows, columns, 3) uint8; also written to `path`."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if selector is not None:
            x, y, width, height = self._place(f"document.querySelector({selector!r})")
            image = image.crop((round(x), round(y), round(x + width), round(y + height)))
        if path is not None:
            image.save(path)
        return np.asarray(image)
