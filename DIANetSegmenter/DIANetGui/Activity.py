# SPDX-License-Identifier: Apache-2.0
"""How far a run is, as one fraction and the time left, from the worker's progress per stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Shares of a run's time by stage, on a CPU with ten samples; a run's own stages then correct the guess.
_SHARES: Mapping[str, float] = {
    "start": 0.12,
    "load": 0.12,
    "prepare": 0.04,
    "localise": 0.22,
    "segment": 0.30,
    "restore": 0.04,
    "explain": 0.20,
    "review": 0.02,
    "write": 0.03,
    "show": 0.03,
}
_SETTLED_SECONDS = 1.5  # before, what is left would be guessed from next to nothing
_SETTLED_FRACTION = 0.08


@dataclass(frozen=True)
class Activity:
    """What is going on.

    Attributes:
        stage: `"start"`, `"load"`, `"prepare"`, `"localise"`, `"segment"`, `"restore"`, `"explain"`,
            `"review"`, `"write"`, `"show"` or `"stop"`.
        fraction: How much of the whole is done, 0 to 1; None where that is not known.
        secondsLeft: Guess of the time left, s; None while there is nothing to guess from.
    """

    stage: str
    fraction: float | None = None
    secondsLeft: float | None = None


def stagesOf(*, starts: bool, localises: bool, explains: bool) -> tuple[str, ...]:
    """The stages that a segmentation will go through.

    Args:
        starts: Whether the worker has to be started.
        localises: Whether the model looks for its region first.
        explains: Whether Grad-CAM is asked for with it.
    """
    stages = ["load", "prepare", "segment", "restore", "review", "write", "show"]
    if starts:
        stages.insert(0, "start")
    if localises:
        stages.insert(stages.index("segment"), "localise")
    if explains:
        stages.insert(stages.index("review"), "explain")
    return tuple(stages)


class Meter:
    """Turns progress per stage into one fraction that never runs backwards.

    Args:
        stages: The stages that are expected, in order.
        clock: Seconds.
        seconds: How long stages have taken before, where that is known.
    """

    def __init__(
        self,
        stages: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        self._stages = stages
        self._weights = {stage: _SHARES.get(stage, 0.0) for stage in stages}
        known = {stage: seconds[stage] for stage in stages if stage in seconds} if seconds else {}
        if sum(known.values()) > 0:
            # On the scale of the guesses, which the other stages keep.
            scale = sum(self._weights[stage] for stage in known) / sum(known.values())
            self._weights.update({stage: value * scale for stage, value in known.items()})
        self._clock = clock
        self._started = clock()
        self._fraction = 0.0

    def at(self, stage: str, done: int = 0, total: int = 0) -> Activity:
        """The activity with `done` of `total` steps of a stage finished."""
        within = min(1.0, done / total) if total > 0 else 0.0
        self._fraction = max(self._fraction, self._before(stage) + within * self._share(stage))
        elapsed = self._clock() - self._started
        settled = elapsed >= _SETTLED_SECONDS and self._fraction >= _SETTLED_FRACTION
        left = elapsed * (1.0 - self._fraction) / self._fraction if settled else None
        return Activity(stage, self._fraction, left)

    def _share(self, stage: str) -> float:
        whole = sum(self._weights.values())
        return self._weights.get(stage, 0.0) / whole if whole > 0 else 0.0

    def _before(self, stage: str) -> float:
        if stage not in self._stages:
            return self._fraction
        return sum(self._share(name) for name in self._stages[: self._stages.index(stage)])
