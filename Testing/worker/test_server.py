# SPDX-License-Identifier: Apache-2.0
"""The server in this process, over pipes, with answers that a test needs."""

from __future__ import annotations

import os
import threading
import time

import pytest

from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import Progress as Step
from DIANetLib.worker import server as module
from DIANetLib.worker.codec import encode
from DIANetLib.worker.connection import Connection
from DIANetLib.worker.job import Job
from DIANetLib.worker.protocol import (
    Cancel,
    Cancelled,
    DeviceEstimate,
    Done,
    Estimated,
    Failed,
    Hello,
    ListModels,
    Progress,
    Result,
    Shutdown,
)
from DIANetLib.worker.server import Server


class Answers:
    """Does what the test has put under the request's id."""

    def __init__(self):
        self.work = {}
        self.discarded = 0
        self.idled = []

    def answer(self, job):
        return self.work.get(job.request.id, lambda _: Done())(job)

    def discard(self):
        self.discarded += 1

    def idle(self, seconds):
        self.idled.append(seconds)
        if len(self.idled) == 1:
            raise RuntimeError("idling failed")


class Client:
    """The other ends of the pipes."""

    def __init__(self, **options):
        self.answers = Answers()
        theirs, self.out = os.pipe()
        self.inn, mine = os.pipe()
        self.connection, self.events = Connection(), []
        self.server = Server(self.answers, requests=theirs, events=mine, **options)
        self.thread = threading.Thread(target=self.server.run)
        self.fds = {theirs, mine, self.out, self.inn}
        self.thread.start()

    def send(self, *requests):
        os.write(self.out, "".join(encode(request) + "\n" for request in requests).encode())

    def next(self):
        while not self.events:
            self.events += self.connection.feed(os.read(self.inn, 65536))
        return self.events.pop(0)

    def close(self, *fds):
        for fd in fds or tuple(self.fds):
            if fd in self.fds:
                os.close(fd)
                self.fds.discard(fd)


@pytest.fixture
def client(monkeypatch):
    """`client(**options)` starts a server; it is ended afterwards."""
    monkeypatch.setattr(module, "_END_S", 0.05)
    monkeypatch.setattr(module, "_TICK_S", 0.02)
    monkeypatch.setattr(module, "_WATCH_S", 0.01)
    clients = []
    before = set(threading.enumerate())

    def start(**options):
        clients.append(Client(**options))
        assert isinstance(clients[-1].next(), Hello)
        return clients[-1]

    yield start
    for one in clients:
        one.close(one.out)
        one.thread.join(10)
        assert not one.thread.is_alive()
    deadline = time.monotonic() + 10  # the reading and the watching thread
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before
    for one in clients:
        one.close()


def raising(error):
    def work(_):
        raise error

    return work


def test_whatever_a_job_raises_becomes_a_failure_and_the_next_one_works(client):
    one = client()
    one.answers.work = {
        "a": raising(InputError("What.", remedy="Do.")),
        "b": raising(MemoryError()),
        "c": raising(ZeroDivisionError("by zero")),
        "d": raising(SystemExit(3)),
        "e": lambda _: Estimated((DeviceEstimate("cpu", "CPU", float("nan"), None, (1, 1, 1), True),)),
    }
    one.send(*(ListModels(name) for name in "abcdef"))
    got = [one.next() for _ in range(6)]
    assert got[0] == Failed("a", "input", "What.", "Do.")
    assert (got[1].kind, got[1].message) == ("device", "The memory of this computer did not suffice.")
    assert [e.kind for e in got[2:5]] == ["internal"] * 3
    assert "ZeroDivisionError: by zero" in got[2].message
    assert got[5] == Result("f", Done())
    assert one.answers.discarded == 5


def test_a_cancellation_is_told_at_once_and_a_result_that_comes_too_late_is_discarded(client):
    one, begun, go_on = client(), threading.Event(), threading.Event()

    def stubborn(_):
        begun.set()
        assert go_on.wait(10)
        return Done()

    one.answers.work["s"] = stubborn
    one.send(ListModels("s"))
    assert begun.wait(10)
    one.send(Cancel("c", "s"))
    assert [one.next(), one.next()] == [Cancelled("s"), Result("c", Done())]
    assert one.answers.discarded == 0
    one.send(Cancel("again", "s"), ListModels("s"))  # the id is free again
    assert one.next() == Result("again", Done())
    one.answers.work.clear()
    go_on.set()
    assert one.next() == Result("s", Done())
    assert one.answers.discarded == 1


def test_progress_is_told_and_stops_with_the_cancellation(client):
    one, ended = client(), threading.Event()

    def work(job):
        try:
            while True:
                job.report(Step("segment", 1, 2))
        finally:
            ended.set()

    one.answers.work["s"] = work
    one.send(ListModels("s"))
    assert one.next() == Progress("s", "segment", 1, 2)
    one.send(Cancel("c", "s"))
    events = []
    while not events or events[-1] != Result("c", Done()):
        events.append(one.next())
    assert Cancelled("s") in events
    assert ended.wait(10)


def test_a_job_that_never_stops_makes_the_worker_give_up(client, monkeypatch):
    monkeypatch.setattr(module, "_STUCK_S", 0.1)
    gave_up, begun, go_on = threading.Event(), threading.Event(), threading.Event()
    one = client(give_up=gave_up.set)

    def stuck(_):
        begun.set()
        assert go_on.wait(10)
        return Done()

    one.answers.work["s"] = stuck
    one.send(ListModels("s"), ListModels("waits"))
    assert begun.wait(10)
    one.send(Cancel("c", "s"))
    assert gave_up.wait(10)
    assert [one.next() for _ in range(3)] == [Cancelled("s"), Result("c", Done()), Cancelled("waits")]
    go_on.set()


def test_shutting_down_tells_everybody_though_a_job_is_stuck(client):
    gave_up, begun, go_on = threading.Event(), threading.Event(), threading.Event()
    one = client(give_up=gave_up.set)

    def stuck(_):
        begun.set()
        assert go_on.wait(10)
        return Done()

    one.answers.work["s"] = stuck
    one.send(ListModels("s"), ListModels("waits"))
    assert begun.wait(10)
    one.send(Shutdown("x"), ListModels("too late"))
    assert [one.next() for _ in range(3)] == [Cancelled("s"), Cancelled("waits"), Result("x", Done())]
    assert gave_up.wait(10)
    go_on.set()


def test_a_client_that_is_gone_or_reads_no_more_ends_the_server(client):
    gone = threading.Event()
    one = client(client_gone=gone.is_set)
    gone.set()
    one.thread.join(10)
    assert not one.thread.is_alive()

    other, begun = client(), threading.Event()

    def work(_):
        begun.set()
        return Done()

    other.answers.work["s"] = work
    other.close(other.inn)
    other.send(ListModels("s"))
    other.thread.join(10)
    assert not other.thread.is_alive()
    assert other.answers.discarded == 1
    assert not other.server.hung_up


def test_the_end_of_the_requests_ends_the_server(client):
    one = client()
    one.close(one.out)
    one.thread.join(10)
    assert not one.thread.is_alive()
    assert one.server.hung_up


def test_between_requests_the_answers_are_told_how_long_nothing_was_asked(client):
    one = client()
    deadline = time.monotonic() + 10
    while len(one.answers.idled) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    idled = one.answers.idled[:5]
    assert idled == sorted(idled)
    one.send(ListModels("a"))
    assert one.next() == Result("a", Done())


def test_steps_that_follow_each_other_quickly_are_left_out_but_never_first_and_last(monkeypatch):
    told = []
    job = Job(ListModels("a"), told.append)
    clock = iter([0.0, 0.01, 0.02, 0.07, 0.08, 0.09, 0.1])
    monkeypatch.setattr("DIANetLib.worker.job.time.monotonic", lambda: next(clock))
    for step in (Step("load", 0, 5), *(Step("segment", n, 5) for n in range(6))):
        job.report(step)
    assert [(p.stage, p.done) for p in told] == [("load", 0), ("segment", 0), ("segment", 2), ("segment", 5)]
