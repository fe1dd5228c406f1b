# SPDX-License-Identifier: Apache-2.0
"""A viewer as the command starts it, and a browser."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from Testing.viewer.chromium import Chromium, program
from Testing.viewer.made import write_case

ROOT = Path(__file__).resolve().parents[2]


def need_viewer() -> None:
    if find_spec("trame_slicer") is None or find_spec("slicer_core") is None:
        pytest.skip('needs the extra "viewer"')


class Running:
    """A `dianet view` in a process of its own."""

    def __init__(self, process: subprocess.Popen, folder: Path, lines: list[str]) -> None:
        self.process, self.folder = process, folder
        self.said = "\n".join(lines)
        self.url = re.search(r"http://\S+", self.said).group()

    @property
    def address(self) -> str:
        return self.url.partition("/?")[0]


@contextlib.contextmanager
def viewing(folder: Path, *options: str) -> Iterator[Running]:
    """Run the command until it prints its address; stop it at the end as Ctrl-C does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "DIANetLib.cli", "view", str(folder), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(240, process.kill)
    guard.start()
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("Stop with"):
                break
        else:
            error = process.stderr.read()
            if "no OpenGL" in error:
                pytest.skip("needs OpenGL without a screen (Debian: sudo apt-get install libegl1)")
            pytest.fail(error)
        guard.cancel()
        yield Running(process, folder, lines)
    finally:
        guard.cancel()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Chromium]:
    need_viewer()
    if program() is None:
        pytest.skip("needs Chromium (Debian: sudo apt-get install chromium)")
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="session")
def case(tmp_path_factory) -> Path:
    """An output folder that no test changes."""
    return write_case(tmp_path_factory.mktemp("viewer") / "case")


@pytest.fixture
def result(case, tmp_path) -> Path:
    """An output folder of the test's own; its image lies beside it."""
    shutil.copytree(case.parent, tmp_path / "case")
    folder = tmp_path / "case" / case.name
    file = folder / "result.json"
    file.write_text(file.read_text().replace(str(case.parent), str(folder.parent)))
    return folder


@pytest.fixture(scope="session")
def running(case, tmp_path_factory) -> Iterator[Running]:
    """A viewer of a copy of that folder."""
    need_viewer()
    folder = tmp_path_factory.mktemp("shown") / "result"
    shutil.copytree(case, folder)
    with viewing(folder, "--reviewer", "Ada") as viewer:
        yield viewer
