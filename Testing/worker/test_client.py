# SPDX-License-Identifier: Apache-2.0
"""The client against programs that are no worker, or a bad one."""

from __future__ import annotations

import sys
import time

import pytest

from DIANetLib.errors import Cancelled, WorkerError
from DIANetLib.worker import client as module
from DIANetLib.worker.client import LocalWorker
from DIANetLib.worker.processes import started
from DIANetLib.worker.protocol import ListModels, Progress

GREETING = r"""
import sys, time
def say(text):
    sys.stdout.write("\x1e" + text + "\n")
    sys.stdout.flush()
say('{"type":"hello","protocol":2,"version":"0","pid":1,"python":"3"}')
"""


@pytest.fixture
def program(monkeypatch, tmp_path):
    """`program(code)` starts a client whose worker is that program."""
    workers = []

    def start(code: str) -> LocalWorker:
        monkeypatch.setattr(module, "worker_command", lambda python, *_, **__: [str(python), "-c", code])
        worker = LocalWorker(base=tmp_path)
        worker.events, worker.lost, worker.log = [], [], []
        worker.onEvent = worker.events.append
        worker.onLost, worker.onLog = worker.lost.append, worker.log.append
        workers.append(worker)
        worker.start()
        return worker

    yield start
    for worker in workers:
        worker.kill()
        worker.stop()
    assert list(tmp_path.iterdir()) == []


def until(worker, condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        worker.poll(0.05)


def test_a_worker_of_another_version_is_ended_and_named(program):
    worker = program(GREETING.replace('"protocol":2', '"protocol":99') + "time.sleep(60)")
    until(worker, lambda: worker.lost)
    assert "speaks version 99 of the protocol" in worker.lost[0]
    assert not worker.running
    assert worker.events == []
    worker.poll(0.01)
    assert len(worker.lost) == 1


def test_a_program_that_ends_at_once_is_lost_with_its_last_words(program):
    worker = program("import sys; print('no module named x', file=sys.stderr); sys.exit(3)")
    until(worker, lambda: worker.lost)
    assert worker.lost == ["The worker process ended with exit code 3. Its last words: no module named x"]
    assert worker.log == ["no module named x"]
    with pytest.raises(WorkerError, match="does not run"):
        worker.send(ListModels("m"))


def test_asking_a_worker_that_ends_or_does_not_answer_raises(program):
    worker = program(GREETING + "sys.stdin.readline(); sys.exit(5)")
    with pytest.raises(WorkerError, match="ended with exit code 5"):
        worker.ask(ListModels("m"))
    assert len(worker.lost) == 1
    worker = program(GREETING + "time.sleep(60)")
    with pytest.raises(WorkerError, match=r"not answered within 0\.3 seconds"):
        worker.ask(ListModels("m"), seconds=0.3)


def test_asking_gives_other_events_to_the_owner_and_raises_what_the_worker_says(program):
    worker = program(
        GREETING
        + """
say('{"type":"progress","id":"m","stage":"load","done":0,"total":1}')
say('{"type":"cancelled","id":"another"}')
say('{"type":"cancelled","id":"m"}')
time.sleep(60)
"""
    )
    own = worker.onEvent
    with pytest.raises(Cancelled):
        worker.ask(ListModels("m"))
    assert worker.onEvent is own
    assert Progress("m", "load", 0, 1) in worker.events
    assert len(worker.events) == 4


def test_a_program_that_listens_to_nothing_is_ended_all_the_same(program):
    worker = program(
        GREETING + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    )
    until(worker, lambda: worker.events)
    pid, start = worker.pid, time.monotonic()
    worker.stop()
    assert time.monotonic() - start < 10
    assert started(pid) is None
    assert worker.lost == []


def test_starting_twice_keeps_the_process(program):
    worker = program(GREETING + "time.sleep(60)")
    pid, folder = worker.pid, worker.exchange.folder
    worker.start()
    assert (worker.pid, worker.exchange.folder) == (pid, folder)
    worker.kill()
    until(worker, lambda: worker.lost)
    worker.start()
    assert worker.pid != pid
    assert not folder.exists()


def test_a_client_that_was_not_started_can_be_stopped(tmp_path):
    worker = LocalWorker(sys.executable, base=tmp_path)
    assert not worker.running
    assert worker.pid is None
    worker.poll(0.01)
    worker.terminate()
    worker.kill()
    worker.stop()
