# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from DIANetLib.worker import processes
from DIANetLib.worker.processes import is_running, kill_tree, started

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
PARENT = [
    sys.executable,
    "-c",
    f"import subprocess, time; print(subprocess.Popen({SLEEP!r}).pid, flush=True); time.sleep(60)",
]


def test_a_process_runs_until_it_ends_and_is_known_by_its_start():
    since = started(os.getpid())
    assert since
    assert is_running(os.getpid(), since)
    assert is_running(os.getpid(), "")
    assert not is_running(os.getpid(), "another start")
    child = subprocess.Popen(SLEEP)
    assert is_running(child.pid, started(child.pid))
    child.kill()
    deadline = time.monotonic() + 10
    while started(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert started(child.pid) is None  # a zombie, not yet waited for, counts as ended
    child.wait()
    assert not is_running(child.pid, "")


@pytest.mark.skipif(os.name != "posix", reason="the ways of POSIX")
def test_the_ways_of_other_systems_agree():
    for ask in (processes._started_posix, processes._exists):
        assert ask(os.getpid()) is not None
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        assert ask(child.pid) is None


def test_a_process_is_killed_with_its_children():
    parent = subprocess.Popen(PARENT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert started(child) is not None
    kill_tree(parent.pid)
    assert parent.wait(10) != 0
    deadline = time.monotonic() + 10
    while started(child) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert started(child) is None
    parent.stdout.close()
    kill_tree(parent.pid)  # no error if it is gone


@pytest.mark.skipif(os.name != "posix", reason="the ways of POSIX")
def test_children_are_found_without_ps(monkeypatch):
    def no_ps(*_, **__):
        raise FileNotFoundError

    with_ps = processes._parents()
    monkeypatch.setattr(processes.subprocess, "run", no_ps)
    assert (os.getpid(), os.getppid()) in with_ps
    if sys.platform == "linux":
        assert (os.getpid(), os.getppid()) in processes._parents()
    assert processes._started_posix(os.getpid()) == ""
