# SPDX-License-Identifier: Apache-2.0
"""Small models and images, and workers that are ended whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.volume import Geometry, Volume
from DIANetLib.worker.client import LocalWorker
from DIANetLib.worker.protocol import Segment
from Testing.bundle.tiny import write_bundle

GRID = Geometry((9, 13, 10), (1.0, 1.0, 1.0), (5.0, -3.0, 7.0), np.diag([-1.0, -1.0, 1.0]))
#: Enough passes to take minutes; each takes milliseconds.
FOREVER = 1_000_000


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with random weights."""
    return write_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture
def image() -> Volume:
    """Noise."""
    array = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)
    return Volume(array, GRID, "noise", "T1", "1.2.3")


StartWorker = Callable[..., LocalWorker]


@pytest.fixture
def start_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartWorker]:
    """`start_worker(**arguments)` starts a worker whose exchange folder lies in the test's own folder."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    workers: list[LocalWorker] = []
    before = set(threading.enumerate())

    def start(**arguments: object) -> LocalWorker:
        worker = LocalWorker(base=tmp_path, **arguments)
        worker.events, worker.lost, worker.log = [], [], []  # what has come, for the test
        worker.onEvent, worker.onLost, worker.onLog = (
            worker.events.append,
            worker.lost.append,
            worker.log.append,
        )
        workers.append(worker)
        worker.start()
        return worker

    yield start
    for worker in workers:
        worker.stop()
        assert not worker.running
    assert not list(tmp_path.glob("dianet-*")), "an exchange folder was left"
    assert set(threading.enumerate()) <= before, "a thread was left"


def segmentation(worker: LocalWorker, model: Path, image: Volume, identity: str = "s", **more) -> Segment:
    """A request for the image."""
    assert worker.exchange is not None
    fields = {"samples": 2, "device": "cpu", **more}
    return Segment(identity, str(model), (worker.exchange.write(image),), **fields)
