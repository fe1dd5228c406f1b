# SPDX-License-Identifier: Apache-2.0
"""What the commands share: progress on stderr, tables on stdout, errors as one sentence with an exit code.

Exit codes: 0 done, 1 something unexpected, 2 input that cannot be used, 130 stopped with Ctrl-C, 143
terminated.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from DIANetLib.acwi.familiarity import familiarity_line
from DIANetLib.acwi.quality import DEFAULT_LIMITS, LightLimits, light, sentence
from DIANetLib.errors import Cancelled, DIANetError

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region
    from DIANetLib.inference.prediction import Prediction, Progress

__all__ = [
    "NOTICE",
    "classification_lines",
    "guarded",
    "progress_display",
    "quality_lines",
    "region_line",
    "structure_table",
    "table",
    "timing_line",
]

NOTICE = "For research use only. Not a medical device."

_STAGES = {
    "read": "reading",
    "prepare": "preparing",
    "localise": "finding the region",
    "segment": "segmenting",
    "classify": "classifying",
    "reconstruct": "reconstructing",
    "restore": "restoring the grid",
    "explain": "explaining (Grad-CAM)",
    "inner": "reading attention",
    "review": "finding where to look",
    "write": "writing",
}
_FEW = 6  # structures that are all told of, green or not
_SET_UP = ("start", "read", "load")


class _Terminated(BaseException):
    """SIGTERM, as an exception so that nothing half-written stays behind."""


def guarded(run: Callable[[], int], *, debug: bool = False) -> int:
    """Call `run` and turn what it raises into one line on stderr and an exit code.

    Args:
        run: Returns the exit code.
        debug: Let unexpected exceptions through with their traceback.
    """
    _quieten(debug)
    with _sigterm_raises():
        try:
            return run()
        except (KeyboardInterrupt, Cancelled):
            return _say("cancelled; nothing was written.", 130)
        except _Terminated:
            return _say("terminated; nothing was written.", 143)
        except BrokenPipeError:
            # The reader of stdout is gone (`dianet models | head`); Python would complain again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except DIANetError as error:
            if debug:
                traceback.print_exc()
            return _say(f"error: {error}", 2)
        except Exception as error:
            if debug:
                raise
            return _say(_unexpected(error), 1)


@contextmanager
def progress_display(*, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """Show progress on stderr: a bar per stage on a terminal, a line per stage otherwise."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        lines = _Lines()
        yield lines
        lines.close()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns; the first is aligned to the left, the others to the right."""
    widths = [max(len(row[n]) for row in (header, *rows)) for n in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            text.ljust(w) if n == 0 else text.rjust(w)
            for n, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def structure_table(prediction: Prediction) -> str:
    """A row per structure: volume in ml, mean calibrated probability, expected Dice and its interval."""
    rows = [
        (
            structure.name,
            f"{prediction.volumes_ml[structure.key]:.2f}",
            _number(prediction.confidence[structure.key]),
            _number(prediction.expected_dice[structure.key]),
            _interval(prediction.dice_interval.get(structure.key)),
        )
        for structure in prediction.structures
    ]
    return table(("structure", "ml", "expected confidence", "expected Dice", "90 % interval"), rows)


def quality_lines(prediction: Prediction, limits: LightLimits = DEFAULT_LIMITS) -> list[str]:
    """What quality to expect, a sentence a structure with its traffic light, what is worst first.

    Last, where the model can tell, whether the image is like what it was fitted on. Of many structures,
    those that are green are left out.

    Args:
        prediction: What was computed.
        limits: Where the colours of the light begin.
    """
    judged = [
        (estimate, structure.name)
        for structure in prediction.structures
        for estimate in [prediction.estimate(structure.key)]
    ]
    judged.sort(key=lambda pair: -1.0 if pair[0] is None else pair[0].value)
    lines = [
        f"{sentence(name, estimate)}, {colour}"
        for estimate, name in judged
        for colour in [light(estimate, limits)]
        if colour != "green" or len(judged) <= _FEW
    ]
    left_out = len(judged) - len(lines)
    if left_out:
        of = f"{left_out} of {len(judged)} structures"
        lines.append(f"{of}: expected Dice {limits.green:.2f} or more, green")
    line = familiarity_line(prediction.familiarity)
    return [*lines, line] if line else lines


def region_line(regions: Sequence[Region], prediction: Prediction) -> str:
    """The place to look at first, with its position as 3D Slicer shows it (RAS)."""
    if not regions:
        return "No region stands out as uncertain."
    worst = regions[0]
    names = {structure.key: structure.name for structure in prediction.structures}
    where = " / ".join(names.get(key, key) for key in worst.structures) or "background"
    x, y, z = worst.centre
    return (
        f"Most uncertain region (1 of {len(regions)}): {where}, at R {-x:.1f}, A {-y:.1f}, S {z:.1f} mm,"
        f" {worst.volume_mm3:.0f} mm³, of which {worst.expected_error_mm3:.0f} mm³ expected to be wrong"
    )


def classification_lines(prediction: Prediction) -> list[str]:
    """What the image, or each of its regions, was taken for as a whole; none for models without classes."""
    return [
        "Classification: "
        + ", ".join(f"{c.name} {p:.2f}" for c, p in zip(found.classes, found.probabilities, strict=True))
        for found in prediction.classifications
    ]


def timing_line(timings: Mapping[str, float]) -> str:
    """Seconds of the set-up (imports, reading, weights), of the model's own work, and of writing."""
    set_up = sum(timings.get(stage, 0.0) for stage in _SET_UP)
    writing = timings.get("write", 0.0)
    model = sum(seconds for stage, seconds in timings.items() if stage not in (*_SET_UP, "write"))
    return f"Time: set-up {set_up:.1f} s, model {model:.1f} s, writing {writing:.1f} s"


class _Lines:
    def __init__(self) -> None:
        self._stage: str | None = None
        self._since = 0.0

    def __call__(self, step: Progress) -> None:
        if step.stage != self._stage:
            self.close()
            self._stage, self._since = step.stage, time.perf_counter()
            self._print("...")

    def close(self) -> None:
        if self._stage is not None:
            self._print(f"done in {time.perf_counter() - self._since:.1f} s")
        self._stage = None

    def _print(self, what: str) -> None:
        print(f"{_STAGES.get(str(self._stage), self._stage)} {what}", file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(step: Progress) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(_STAGES.get(step.stage, step.stage), total=step.total)
            bars.update(tasks[step.stage], completed=step.done, total=step.total)

        yield report


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.2f}–{ends[1]:.2f}"


def _say(text: str, code: int) -> int:
    print(f"dianet: {' '.join(text.split())}", file=sys.stderr)
    return code


def _unexpected(error: Exception) -> str:
    what = f"error: something unexpected happened ({type(error).__name__}: {error})."
    try:
        handle, path = tempfile.mkstemp(prefix="dianet-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(" ".join(sys.argv) + "\n")
            traceback.print_exc(file=stream)
    except OSError:
        return f"{what} Run it again with --debug to see where."
    return f"{what} Where it happened is noted in {path}; please report it."


def _quieten(debug: bool) -> None:
    """Third-party warnings mean nothing to somebody who typed a command."""
    if not debug:
        warnings.simplefilter("ignore")
        logging.getLogger("monai").setLevel(logging.ERROR)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
