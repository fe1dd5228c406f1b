# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import DIANetLib
from DIANetLib.errors import BundleError, InputError, WorkerError
from DIANetLib.worker.codec import decode_request, encode
from DIANetLib.worker.connection import Connection, check_hello, error_of, lost_sentence, worker_command
from DIANetLib.worker.protocol import PROTOCOL_VERSION, Failed, Hello, Progress
from Testing.worker.messages import EVENTS, REQUESTS


def line(event):
    return f"\x1e{encode(event)}\n".encode()


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_events_arrive_however_the_bytes_are_cut(size):
    data = b"".join(line(event) for event in EVENTS)
    connection, got = Connection(), []
    for start in range(0, len(data), size):
        got += connection.feed(data[start : start + size])
    assert got == list(EVENTS)


def test_what_is_printed_between_events_is_noise_and_nothing_else():
    noise = []
    connection = Connection(noise.append)
    progress = Progress("s", "segment", 1, 2)
    data = b"loading\n" + line(progress) + b"no end of line" + line(progress) + b"\n\xff\xfe\n\x1e{broken\n"
    assert connection.feed(data) == [progress, progress]
    assert noise == ["loading", "no end of line", "\ufffd\ufffd", "{broken"]


def test_an_event_without_separator_is_noise():
    noise = []
    assert Connection(noise.append).feed(line(EVENTS[0])[1:]) == []
    assert len(noise) == 1


def test_noise_without_an_end_does_not_pile_up():
    noise = []
    connection = Connection(noise.append)
    for _ in range(100):
        connection.feed(b"x" * 10_000)
    assert len(noise) > 10
    assert len(connection.close()) <= 1 << 16
    assert connection.feed(line(EVENTS[0])) == [EVENTS[0]]


def test_windows_ends_of_lines_do_no_harm():
    assert Connection().feed(line(EVENTS[1]).replace(b"\n", b"\r\n")) == [EVENTS[1]]


def test_a_request_is_one_line():
    data = Connection().request(REQUESTS[0])
    assert data.count(b"\n") == 1
    assert decode_request(data.decode()) == REQUESTS[0]


def test_another_version_of_the_protocol_is_refused():
    check_hello(Hello(PROTOCOL_VERSION, "1", 1, "3.12"))
    with pytest.raises(WorkerError, match=r"DIANet 9\.9 and speaks version 99 .* Install the same version"):
        check_hello(Hello(99, "9.9", 1, "3.12"))


def test_a_failure_becomes_the_error_that_it_was():
    error = error_of(Failed("s", "input", "What.", "Do."))
    assert type(error) is InputError
    assert str(error) == "What. Do."
    assert type(error_of(Failed("s", "bundle", "What."))) is BundleError
    assert type(error_of(Failed("s", "internal", "What."))) is WorkerError


def test_how_a_worker_ended_is_said():
    assert lost_sentence(3) == "The worker process ended with exit code 3."
    assert lost_sentence(None) == "The worker process crashed."
    assert lost_sentence(1, ["a", " ", "b "]).endswith("exit code 1. Its last words: a b")
    assert len(lost_sentence(1, ["module " * 500])) < 400
    assert "SIGSEGV" in lost_sentence(-signal.SIGSEGV)
    assert "signal 200" in lost_sentence(None, signalled=200)
    if hasattr(signal, "SIGKILL"):
        assert "when memory runs out" in lost_sentence(-signal.SIGKILL)


@pytest.fixture
def traps(tmp_path):
    """A folder whose modules must never be imported."""
    for name in ("json.py", "dataclasses.py", "numpy.py"):
        (tmp_path / name).write_text("raise SystemExit('shadowed')")
    (tmp_path / "DIANetLib").mkdir()
    (tmp_path / "DIANetLib" / "__init__.py").write_text("raise SystemExit('another library')")
    return tmp_path


def test_the_worker_is_this_library_and_the_current_folder_shadows_nothing(traps):
    command = worker_command(sys.executable, Path("nowhere"))
    done = subprocess.run(command, cwd=traps, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "dianet: error: The exchange folder nowhere does not exist." in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["PYTHONPATH", "PYTHONSAFEPATH"])
def test_the_worker_starts_whatever_the_environment_says(traps, name, monkeypatch):
    (traps / "json.py").unlink()
    (traps / "dataclasses.py").unlink()
    (traps / "numpy.py").unlink()
    monkeypatch.setenv(name, str(traps))
    command = [*worker_command(sys.executable, Path("nowhere"))[:-4], "--help"]
    done = subprocess.run(command, cwd=traps, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "JSON lines" in done.stdout
    assert str(Path(DIANetLib.__file__)) in command
