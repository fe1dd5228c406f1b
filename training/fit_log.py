# SPDX-License-Identifier: Apache-2.0
"""What a fit writes down while it runs: log.csv (step, name, value) and TensorBoard events."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from DIANetLib.errors import DependencyError, optional_import


class ScalarLog(Protocol):
    """What a TensorBoard writer offers."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one number."""

    def close(self) -> None:
        """Flush and close."""


class FitLog:
    """The log of a fit, begun or gone on with.

    Args:
        output: the fit's folder.
        step: where the fit goes on; what was logged later is dropped, for those steps are done again.
    """

    def __init__(self, output: Path, step: int) -> None:
        self.path = output / "log.csv"
        _trim(self.path, step)
        self.writer = _scalar_log(output)

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers down."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            for name, value in numbers.items():
                if self.writer is not None:
                    self.writer.add_scalar(name, value, step)
                table.writerow([step, name, f"{value:.6g}"])

    def close(self) -> None:
        """Flush."""
        if self.writer is not None:
            self.writer.close()


def read_log(output: Path) -> dict[str, dict[int, float]]:
    """What a fit has written to log.csv: name to step to value; empty if there is none."""
    path = output / "log.csv"
    if not path.is_file():
        return {}
    found: dict[str, dict[int, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            if len(row) == 3:
                found.setdefault(row[1], {})[int(row[0])] = float(row[2])
    return found


def _trim(path: Path, step: int) -> None:
    if path.is_file():
        rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for row in rows if row.split(",", 1)[0].isdigit() and int(row.split(",", 1)[0]) <= step]
        path.write_text("".join(kept), encoding="utf-8")


def _scalar_log(output: Path) -> ScalarLog | None:
    try:
        module = optional_import(
            "torch.utils.tensorboard", feature="the TensorBoard log", extra="train", version=">=2.15"
        )
    except DependencyError as error:
        warnings.warn(f"{error} The fit goes on and writes log.csv alone.", stacklevel=4)
        return None
    writer: ScalarLog = module.SummaryWriter(str(output / "tensorboard"))
    return writer
