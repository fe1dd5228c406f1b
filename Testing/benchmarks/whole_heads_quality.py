# SPDX-License-Identifier: Apache-2.0
"""Whether the expected Dice of whole heads is the Dice that an automatic method (DLMUSE) gives them.

    python -m Testing.benchmarks.whole_heads --data DATA --output OUT
    python -m Testing.benchmarks.whole_heads_quality --output OUT

Reads what the first has left in OUT; nothing runs again. A side of a head counts as one: its expected Dice
is the mean of its structures', and so are the ends of its interval; its Dice is that of its structures taken
together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

SIDES = ("left", "right")


@dataclass(frozen=True)
class Side:
    """One hippocampus.

    Attributes:
        group: what its head is reported with.
        expected: expected Dice.
        interval: of the expected Dice.
        dice: with DLMUSE's.
    """

    group: str
    expected: float
    interval: tuple[float, float]
    dice: float

    @property
    def covered(self) -> bool:
        """Whether the interval holds the Dice."""
        return self.interval[0] <= self.dice <= self.interval[1]


def read_sides(output: Path) -> Iterator[Side]:
    """The sides of all heads that have DLMUSE's labels, and an interval for each structure."""
    for file in sorted((output / "heads").glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if not record.get("agreement"):
            continue
        result = json.loads((output / "results" / record["name"] / "result.json").read_text(encoding="utf-8"))
        for side in SIDES:
            parts = [part for part in result["structures"] if side in part["key"]]
            told = [part["expected_dice"] for part in parts]
            if not told or not all(found and found.get("interval") for found in told):
                continue
            low, high = np.mean([found["interval"] for found in told], axis=0)
            expected = float(np.mean([found["value"] for found in told]))
            dice = record["agreement"][side]["dice"]
            yield Side(record["group"], expected, (float(low), float(high)), dice)


def row(group: str, sides: Sequence[Side]) -> str:
    """One row of the table."""
    expected = np.array([side.expected for side in sides])
    dice = np.array([side.dice for side in sides])
    rank: Any = spearmanr(expected, dice).statistic if len(sides) > 2 else np.nan
    return (
        f"| {group} | {len(sides)} | {dice.mean():.3f} | {expected.mean():.3f} "
        f"| {np.abs(expected - dice).mean():.3f} | {'–' if np.isnan(rank) else f'{rank:.2f}'} "
        f"| {100 * np.mean([side.covered for side in sides]):.0f} % |"
    )


def table(sides: Sequence[Side]) -> list[str]:
    """Markdown: a row per group."""
    rows = [
        "| heads | sides | Dice with DLMUSE | expected Dice | mean error | Spearman | coverage |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = dict.fromkeys(side.group for side in sides)
    return rows + [row(group, [side for side in sides if side.group == group]) for group in groups]


def main(argv: list[str] | None = None) -> int:
    """Print the table; exit status 2 if OUT holds nothing to judge."""
    parser = argparse.ArgumentParser(
        description="Expected Dice of whole heads beside their Dice with DLMUSE."
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="what whole_heads has written"
    )
    options = parser.parse_args(argv)
    sides = list(read_sides(options.output))
    if not sides:
        print(
            f"whole_heads_quality: error: {options.output} holds no head with DLMUSE's labels and "
            "expected Dice; run Testing.benchmarks.whole_heads with the same --output first.",
            file=sys.stderr,
        )
        return 2
    print("\n".join(table(sides)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
