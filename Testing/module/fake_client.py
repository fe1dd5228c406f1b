# SPDX-License-Identifier: Apache-2.0
"""A worker's client that says what a test wants, and a timer that a test lets go off."""

from __future__ import annotations

from DIANetLib.errors import WorkerError
from DIANetLib.worker import protocol

HELLO = protocol.Hello(protocol.PROTOCOL_VERSION, "0.1.0", 4711, "3.12.0")


def shared(name: str) -> protocol.SharedVolume:
    """A file of the exchange folder, by name only."""
    return protocol.SharedVolume(
        name, "<f4", (1, 1, 1), (1.0,) * 3, (0.0,) * 3, (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
    )


class FakeExchange:
    """An exchange folder in memory."""

    def __init__(self):
        self.volumes, self.deleted = {}, []

    def write(self, volume, *, crop_zeros=False):
        file = f"volume-{len(self.volumes)}"
        self.volumes[file] = volume
        g = volume.geometry
        direction = tuple(float(v) for v in g.direction.ravel())
        return protocol.SharedVolume(
            file, volume.array.dtype.str, g.size, g.spacing, g.origin, direction, volume.name, volume.modality
        )

    def read(self, file):
        return self.volumes[file.file]

    def delete(self, *files):
        self.deleted += [file.file for file in files]


class FakeClient:
    """A client without a process."""

    def __init__(self):
        self.exchange = None
        self.running = False
        self.starts, self.sent, self.ended = 0, [], []
        self.onEvent = self.onLost = self.onLog = None
        self.script = []  # what `poll` says, one entry a call

    def start(self):
        self.exchange = self.exchange or FakeExchange()
        self.running = True
        self.starts += 1

    def send(self, request):
        if not self.running:
            raise WorkerError("The worker is not running.")
        self.sent.append(request)

    def terminate(self):
        self.ended.append("terminate")

    def kill(self):
        self.ended.append("kill")

    def stop(self):
        self.ended.append("stop")
        self.running = False

    def poll(self, seconds):
        if self.script:
            self.script.pop(0)()

    # what a test does

    def say(self, *events):
        for event in events:
            self.onEvent(event)

    def lose(self, sentence):
        self.running = False
        self.onLost(sentence)


class Later:
    """A single-shot timer whose time passes when a test says so."""

    def __init__(self):
        self._waiting = []

    def __call__(self, milliseconds, function):
        self._waiting.append((milliseconds, function))

    @property
    def delays(self):
        return [milliseconds for milliseconds, _ in self._waiting]

    def pass_all(self):
        waiting, self._waiting = self._waiting, []
        for _, function in sorted(waiting, key=lambda entry: entry[0]):
            function()
