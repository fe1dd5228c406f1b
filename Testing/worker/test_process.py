# SPDX-License-Identifier: Apache-2.0
"""Real worker processes: what they survive, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.errors import BundleError, DependencyError, InputError, WorkerError
from DIANetLib.worker.client import LocalWorker
from DIANetLib.worker.processes import started
from DIANetLib.worker.protocol import (
    BoxLPS,
    Cancel,
    Cancelled,
    Doctor,
    Done,
    Estimate,
    Explain,
    Failed,
    Hello,
    ListModels,
    Progress,
    Result,
    Review,
    ReviewOptions,
    Shutdown,
    Unload,
)
from Testing.worker.conftest import FOREVER, GRID, segmentation

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")


def until(worker, condition, seconds=60.0):
    """Deliver events until the condition holds; returns the seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s: {worker.events} {worker.log}"
        worker.poll(0.01)
    return time.monotonic() - start


def ended(worker, identity):
    """Whether a request has ended."""
    return any(isinstance(e, Result | Failed | Cancelled) and e.id == identity for e in worker.events)


def computing(worker, identity):
    """Whether a request has come to computing."""
    steps = (e for e in worker.events if isinstance(e, Progress) and e.id == identity)
    return any(step.stage == "segment" and step.done for step in steps)


def files(worker):
    return sorted(path.name for path in worker.exchange.folder.iterdir() if path.suffix == ".raw")


def test_a_worker_greets_segments_explains_and_reviews(start_worker, tiny, image):
    worker = start_worker()
    until(worker, lambda: worker.events)
    hello = worker.events[0]
    assert isinstance(hello, Hello)
    assert hello.pid == worker.pid

    request = segmentation(worker, tiny, image, explain=("all",), review=ReviewOptions(0.2, 1.0, 3))
    found = worker.ask(request)
    assert [s.key for s in found.structures] == ["head", "tail"]
    kinds = [(m.kind, m.structure) for m in found.maps]
    assert kinds == [
        ("total", None),
        ("aleatoric", None),
        ("epistemic", None),
        ("heteroscedastic", None),
        ("error", None),
        ("variance", "head"),
        ("variance", "tail"),
        ("gradcam", "head"),
        ("gradcam", "tail"),
    ]
    labels = worker.exchange.read(found.labels)
    assert labels.geometry == image.geometry
    assert labels.array.dtype == np.uint8
    assert labels.frame_of_reference == "1.2.3"
    assert set(np.unique(labels.array)) <= {0, 1, 2}
    total = worker.exchange.read(found.maps[0].volume)
    assert total.array.dtype == np.float32
    assert total.geometry == image.geometry
    for summary, value in zip(found.summaries, (1, 2), strict=True):
        assert summary.volume_ml == pytest.approx((labels.array == value).sum() / 1000)
    assert (found.model, found.samples, found.seed, found.device) == ("tiny", 2, 0, "cpu")
    assert "bottleneck" in found.layers
    assert {"segment", "explain", "review"} <= set(found.timings)

    (gradcam,) = worker.ask(Explain("e", "s", ("tail",))).maps
    np.testing.assert_array_equal(
        worker.exchange.read(gradcam.volume).array, worker.exchange.read(found.maps[-1].volume).array
    )
    assert worker.ask(Review("r", "s", ReviewOptions(0.2, 1.0, 3))).regions == found.regions
    stages = [e.stage for e in worker.events if isinstance(e, Progress) and e.id == "s"]
    assert list(dict.fromkeys(stages)) == [
        "load",
        "prepare",
        "segment",
        "restore",
        "explain",
        "review",
        "write",
    ]


def test_explaining_a_part_of_a_structure_differs_from_explaining_all_of_it(start_worker, tiny, image):
    worker = start_worker()
    labels = worker.exchange.read(worker.ask(segmentation(worker, tiny, image)).labels)
    k, j, i = np.argwhere(labels.array == 1)[0]
    centre = GRID.index_to_world((i, j, k))
    box = BoxLPS(tuple(centre - 1.5), tuple(centre + 1.5))

    def explained(**more):
        (entry,) = worker.ask(Explain("e", "s", ("head",), **more)).maps
        return worker.exchange.read(entry.volume).array

    assert not np.array_equal(explained(region=box), explained())
    assert not np.array_equal(explained(layer="encoder.stages.0"), explained())
    outside = BoxLPS((500.0, 500.0, 500.0), (501.0, 501.0, 501.0))
    for request, why in [
        (Explain("e", "s", ("head",), region=outside), "Nothing of 'head' lies in the region"),
        (Explain("e", "s", ("ear",)), "no structure 'ear'; it has head, tail"),
        (Explain("e", "s", ()), "No structure to explain"),
        (Explain("e", "s", ("head",), layer="roof"), "no layer 'roof'"),
        (Explain("e", "gone", ("head",)), "does not have this result any more"),
        (Review("e", "gone"), "does not have this result any more"),
        (Review("e", "s", ReviewOptions(threshold=2.0)), "The threshold is 2.0"),
    ]:
        with pytest.raises(InputError, match=why):
            worker.ask(request)


def test_what_cannot_be_done_is_said_and_leaves_no_file(start_worker, tiny, image):
    worker = start_worker()
    cases = [
        (segmentation(worker, Path("nowhere"), image), BundleError, "no model 'nowhere'"),
        (segmentation(worker, tiny, image, samples=-1), InputError, "samples is -1"),
        (segmentation(worker, tiny, image, explain=("ear",)), InputError, "no structure 'ear' to explain"),
        (
            segmentation(worker, tiny, image, roi=BoxLPS((0.0, 0.0, 0.0), (0.0, 1.0, 1.0))),
            InputError,
            "must exceed",
        ),
        (segmentation(worker, tiny, image, review=ReviewOptions(0.0)), InputError, "The threshold is 0.0"),
    ]
    for request, error, why in cases:
        with pytest.raises(error, match=why):
            worker.ask(request)
        worker.exchange.delete(*request.volumes)
    assert files(worker) == []
    gone = segmentation(worker, tiny, image)
    worker.exchange.delete(*gone.volumes)
    with pytest.raises(WorkerError, match="Cannot read the exchange file"):
        worker.ask(gone)


def test_listing_models_needs_no_torch_and_estimates_name_the_devices(start_worker, tiny, monkeypatch):
    monkeypatch.setenv("DIANET_MODELS", str(tiny.parent))
    worker = start_worker()
    listed = {model.name: model for model in worker.ask(ListModels("m")).models}
    assert {"tiny", "hippocampus", "brain-structures"} <= set(listed)
    assert all(model.problem is None for model in listed.values())
    if sys.platform == "linux":
        assert "libtorch" not in Path(f"/proc/{worker.pid}/maps").read_text()
    request = Estimate(
        "t", "hippocampus", (197, 233, 189), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    )
    devices = worker.ask(request).devices
    assert "cpu" in [d.device for d in devices]
    assert all(1e8 < d.needed_bytes < 1e10 for d in devices)
    report = worker.ask(Doctor("d"))
    assert report.problems == report.text.count("\nproblem") + report.text.startswith("problem")
    assert "torch" in report.text


def test_a_long_job_is_cancelled_within_a_second(start_worker, tiny, image):
    worker = start_worker()
    worker.send(segmentation(worker, tiny, image, samples=FOREVER))
    until(worker, lambda: computing(worker, "s"))
    worker.send(Cancel("c", "s"))
    assert until(worker, lambda: ended(worker, "s")) < 1.0
    assert Cancelled("s") in worker.events
    until(worker, lambda: ended(worker, "c"))
    assert Result("c", Done()) in worker.events
    # It has really stopped, and the next one can be had.
    assert until_answered(worker, ListModels("m")) < 5.0
    assert len(files(worker)) == 1  # the client's own
    assert len(worker.ask(segmentation(worker, tiny, image, "again")).structures) == 2


def until_answered(worker, request):
    start = time.monotonic()
    worker.ask(request)
    return time.monotonic() - start


def test_cancelling_while_torch_is_imported_acts_within_a_second(start_worker, tiny, image):
    worker = start_worker()
    worker.send(segmentation(worker, tiny, image))
    until(worker, lambda: len(worker.events) > 1)
    assert worker.events[1].stage == "load"
    worker.send(Cancel("c", "s"))
    assert until(worker, lambda: ended(worker, "s")) < 1.0
    assert Cancelled("s") in worker.events


def test_a_request_that_waits_is_cancelled_at_once_and_the_running_one_goes_on(start_worker, tiny, image):
    worker = start_worker()
    worker.send(segmentation(worker, tiny, image, samples=FOREVER))
    worker.send(ListModels("waits"))
    until(worker, lambda: computing(worker, "s"))
    worker.send(Cancel("c1", "waits"))
    worker.send(Cancel("c2", "never was"))
    until(worker, lambda: ended(worker, "c2"))
    assert Cancelled("waits") in worker.events
    assert not ended(worker, "s")
    worker.send(ListModels("s"))  # an id in use
    until(worker, lambda: any(isinstance(event, Failed) for event in worker.events))
    (failed,) = (event for event in worker.events if isinstance(event, Failed))  # progress goes on around it
    assert failed.id is None
    assert "'s' is in use" in failed.message
    worker.send(Cancel("c3", "s"))
    until(worker, lambda: ended(worker, "s"))


@POSIX
def test_after_a_kill_in_the_middle_a_new_request_works(start_worker, tiny, image):
    worker = start_worker()
    first = worker.exchange.folder
    worker.send(segmentation(worker, tiny, image, samples=FOREVER))
    until(worker, lambda: computing(worker, "s"))
    os.kill(worker.pid, signal.SIGKILL)
    until(worker, lambda: worker.lost, 10)
    assert worker.lost == [
        "The worker process was ended by SIGKILL, which is also what happens when memory runs out."
    ]
    assert not worker.running
    with pytest.raises(WorkerError, match="does not run"):
        worker.send(ListModels("m"))
    worker.start()
    assert not first.exists()
    assert len(worker.ask(segmentation(worker, tiny, image)).structures) == 2
    assert len(worker.lost) == 1


@POSIX
def test_terminating_tells_the_client_and_ends_in_order(start_worker, tiny, image):
    worker = start_worker()
    worker.send(segmentation(worker, tiny, image, samples=FOREVER))
    until(worker, lambda: computing(worker, "s"))
    worker.terminate()
    until(worker, lambda: worker.lost, 10)
    assert Cancelled("s") in worker.events
    assert worker.lost == ["The worker process ended with exit code 0."]


@POSIX
def test_an_interrupt_is_left_to_the_client(start_worker):
    worker = start_worker()
    until(worker, lambda: worker.events)
    os.kill(worker.pid, signal.SIGINT)
    worker.ask(ListModels("m"))


def test_shutting_down_ends_what_runs_and_what_waits(start_worker, tiny, image):
    worker = start_worker()
    worker.send(segmentation(worker, tiny, image, samples=FOREVER))
    worker.send(ListModels("waits"))
    until(worker, lambda: computing(worker, "s"))
    worker.send(Shutdown("x"))
    until(worker, lambda: worker.lost, 10)
    assert [e for e in worker.events if not isinstance(e, Hello | Progress)] == [
        Cancelled("s"),
        Cancelled("waits"),
        Result("x", Done()),
    ]


def test_stopping_is_quick_removes_everything_and_is_not_a_loss(start_worker, tiny, image):
    worker = start_worker()
    folder, pid = worker.exchange.folder, worker.pid
    worker.send(segmentation(worker, tiny, image, samples=FOREVER))
    until(worker, lambda: computing(worker, "s"))
    worker.stop()
    assert not folder.exists()
    assert started(pid) is None
    assert worker.exchange is None
    worker.poll()
    worker.stop()
    assert worker.lost == []


def test_garbage_is_answered_and_forgotten(start_worker, tiny, image):
    worker = start_worker()
    stream = worker._process.stdin
    for garbage in (
        b"hello\n",
        b"\x00\xff\x1e\n",
        b"[" * 50_000 + b"\n",
        b'{"type": "hello"}\n',
        b"\n\n",
        b"{}\r\n",
    ):
        stream.write(garbage)
    stream.flush()
    until(worker, lambda: len(worker.events) >= 6)
    failed = worker.events[1:]
    assert len(failed) == 5
    assert all(isinstance(e, Failed) and e.id is None and e.kind == "worker" for e in failed)
    assert len(worker.ask(segmentation(worker, tiny, image)).structures) == 2


def test_a_line_without_end_does_not_fill_the_memory(start_worker):
    worker = start_worker()
    stream = worker._process.stdin
    for _ in range(18):
        stream.write(b"x" * (1 << 20))
    stream.write(b"\n")
    stream.flush()
    until(worker, lambda: any(isinstance(e, Failed) for e in worker.events))
    assert "too long" in next(e for e in worker.events if isinstance(e, Failed)).message
    worker.ask(ListModels("m"))


POLLUTION = """
import os, threading, time
print("a library says hello", flush=True)
os.write(1, b"no end of line")
def chatter():
    while True:
        print("chatter", flush=True)
        os.write(1, b"\\x1e{not an event}\\nmore")
        time.sleep(0.002)
threading.Thread(target=chatter, daemon=True).start()
"""


def test_what_libraries_print_does_not_break_the_protocol(start_worker, tiny, image, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(POLLUTION)
    worker = start_worker(environment={"PYTHONPATH": str(tmp_path)})
    found = worker.ask(segmentation(worker, tiny, image, samples=50))
    assert len(found.structures) == 2
    assert {type(e) for e in worker.events} == {Hello, Progress, Result}
    text = "\n".join(worker.log)
    assert "a library says hello" in text
    assert "chatter" in text


def test_two_clients_do_not_disturb_each_other(start_worker, tiny, image):
    one, other = start_worker(), start_worker()
    assert one.exchange.folder != other.exchange.folder
    one.send(segmentation(one, tiny, image, samples=50))
    other.send(segmentation(other, tiny, image, samples=50))
    until(one, lambda: ended(one, "s"))
    until(other, lambda: ended(other, "s"))
    labels = []
    for worker in (one, other):
        payload = worker.events[-1].payload
        labels.append(np.array(worker.exchange.read(payload.labels).array))
        assert len(files(worker)) == 1 + 1 + len(payload.maps)
    np.testing.assert_array_equal(*labels)
    one.stop()
    other.ask(ListModels("m"))


CLIENT = """
import sys, time
from pathlib import Path
from Testing.worker.conftest import segmentation, GRID, FOREVER
from DIANetLib.volume import Volume
from DIANetLib.worker.client import LocalWorker
import numpy as np
worker = LocalWorker(base=Path(sys.argv[1]))
worker.onEvent = lambda e: print(worker.pid, flush=True) if getattr(e, "stage", "") == "segment" else None
worker.start()
image = Volume(np.random.default_rng(0).normal(size=GRID.shape).astype("f4"), GRID)
worker.send(segmentation(worker, Path(sys.argv[2]), image, samples=FOREVER))
while True:
    worker.poll(0.05)
"""


def client_process(tmp_path, tiny):
    """A client in a process of its own, whose worker computes; and the worker's id."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CLIENT, str(tmp_path), str(tiny)]
    client = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    return client, int(client.stdout.readline())


def wait_for_end(pid, seconds=15.0):
    deadline = time.monotonic() + seconds
    while started(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started(pid) is None, "the worker lives on"


def test_the_worker_ends_with_its_client_and_removes_the_folder(tmp_path, tiny):
    client, pid = client_process(tmp_path, tiny)
    assert started(pid) is not None
    assert list(tmp_path.glob("dianet-*"))
    client.kill()
    client.wait()
    wait_for_end(pid)
    assert not list(tmp_path.glob("dianet-*"))
    client.stdout.close()


@POSIX
def test_the_worker_ends_with_its_client_even_if_a_child_holds_its_input_open(tmp_path, tiny, start_worker):
    folder = start_worker().exchange.folder
    # A process that is gone owns this folder now, while the pipe stays open.
    client = subprocess.Popen([sys.executable, "-c", ""])
    client.wait()
    (folder / "owner.json").write_text(
        (folder / "owner.json").read_text().replace(f'"pid": {os.getpid()}', f'"pid": {client.pid}')
    )
    deadline = time.monotonic() + 15
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()


def test_a_package_that_is_missing_is_named_and_models_can_be_listed(start_worker, tiny, image, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules.update(torch=None, monai=None, pydantic=None)\n"
    )
    worker = start_worker(environment={"PYTHONPATH": str(tmp_path)})
    assert [m.name for m in worker.ask(ListModels("m")).models]
    with pytest.raises(DependencyError, match=r"not installed|cannot be loaded"):
        worker.ask(segmentation(worker, tiny, image))
    assert worker.ask(Doctor("d")).problems > 0


def test_an_interpreter_that_is_none_gets_a_sentence(tmp_path):
    worker = LocalWorker(tmp_path / "no-python", base=tmp_path)
    with pytest.raises(WorkerError, match="could not be started with"):
        worker.start()
    assert list(tmp_path.iterdir()) == []


def status(worker):
    """Resident memory in MB, open files, threads."""
    text = Path(f"/proc/{worker.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    handles = len(os.listdir(f"/proc/{worker.pid}/fd"))
    return int(fields["VmRSS"].split()[0]) / 1024, handles, int(fields["Threads"])


@LINUX
@pytest.mark.slow
def test_two_hundred_requests_leave_memory_files_and_handles_as_they_were(start_worker, tiny, image):
    worker = start_worker()

    def one(number):
        request = segmentation(
            worker, tiny, image, f"s{number}", explain=("head",) if number % 5 == 0 else ()
        )
        found = worker.ask(request)
        explained = worker.ask(Explain(f"e{number}", request.id, ("tail",)))
        worker.ask(Review(f"r{number}", request.id))
        if number % 20 == 0:
            worker.ask(Unload(f"u{number}"))
        volumes = [found.labels, *(m.volume for m in (*found.maps, *explained.maps))]
        worker.exchange.delete(*request.volumes, *volumes)

    for number in range(40):
        one(number)
    before = status(worker)
    for number in range(40, 240):
        one(number)
    after = status(worker)
    assert files(worker) == []
    assert after[0] - before[0] < 20, f"memory grew from {before[0]:.0f} to {after[0]:.0f} MB"
    assert after[1:] == before[1:]
