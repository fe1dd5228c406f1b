# SPDX-License-Identifier: Apache-2.0
"""The report of an ablation, from what its arms measured: ablation.md, ablation.csv and ablation.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from DIANetLib.errors import InputError
from training.ablate_arms import EVERYTHING, REFERENCE
from training.bootstrap import Difference, Estimate, differences, estimates, means_of
from training.summary import write_json, write_text

#: The file of each arm and seed.
MEASURED = "measured.json"


@dataclass(frozen=True)
class ArmResult:
    """An arm beside N1.

    Attributes:
        arm: its name.
        part: what it adds.
        seeds: seeds that are in, of N1's too.
        steps: steps of the arm.
        dice: mean Dice over structures and held-out cases, 0 to 1; a case's is the mean over seeds.
        dice_difference: less N1's on the same cases and seeds; None for N1.
        cut_error_mm: mean error of the cut, mm; None without a cut.
        cut_difference_mm: less N1's; None for N1 or without a cut.
        structures: mean Dice of each structure.
        blocks: the blocks' own figures, of the first seed.
        seconds_per_step: median, seconds.
        relative_time: over N1's in the same minute.
        parameters: learned numbers.
    """

    arm: str
    part: str
    seeds: tuple[int, ...]
    steps: int
    dice: Estimate
    dice_difference: Difference | None
    cut_error_mm: Estimate | None
    cut_difference_mm: Difference | None
    structures: Mapping[str, float]
    blocks: Mapping[str, Any]
    seconds_per_step: float
    relative_time: float
    parameters: int


def write_report(output: Path, command: str = "") -> Path:
    """Write the report on the arms that are measured.

    Args:
        output: the ablation's folder.
        command: how it was called, for the report.

    Returns:
        ablation.md.

    Raises:
        InputError: if N1 is not measured yet, or arms were measured on other cases.
    """
    results = collect(output)
    plan_file = output / "plan.json"
    plan = json.loads(plan_file.read_text(encoding="utf-8")) if plan_file.is_file() else {}
    rows = [_row(result) for result in results]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(output / "ablation.csv", table.getvalue())
    write_json(
        output / "ablation.json",
        {
            "command": command,
            "plan": {key: value for key, value in plan.items() if key != "configuration"},
            "arms": [asdict(result) for result in results],
        },
    )
    path = output / "ablation.md"
    write_text(path, _markdown(results, plan, command))
    return path


def collect(output: Path) -> list[ArmResult]:
    """Arms in the order of the table: N1, then the others as measured, then the one with everything.

    Raises:
        InputError: if N1 is not measured yet, or arms were measured on other cases.
    """
    measured: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted((output / "arms").glob(f"*/seed-*/{MEASURED}")):
        found = json.loads(path.read_text(encoding="utf-8"))
        measured.setdefault(found["arm"], {})[int(found["seed"])] = found
    if REFERENCE not in measured:
        raise InputError(
            f"{output} holds no measured arm {REFERENCE}, which the others are compared with.",
            remedy=f"Run `python -m training ablate` with --arms {REFERENCE}.",
        )
    order = {REFERENCE: 0, EVERYTHING: 2}
    names = sorted(measured, key=lambda name: (order.get(name, 1), _row_of(measured[name]), name))
    return [_result(measured[name], measured[REFERENCE]) for name in names]


def _result(arm: Mapping[int, Mapping[str, Any]], reference: Mapping[int, Mapping[str, Any]]) -> ArmResult:
    first = arm[min(arm)]
    shared = sorted(set(arm) & set(reference))
    if not shared:
        raise InputError(f"the arm {first['arm']} and {REFERENCE} have no seed in common.")
    ours = [arm[seed] for seed in shared]
    theirs = [reference[seed] for seed in shared]
    cases = list(first["cases"])
    for part in (*ours, *theirs):
        if list(part["cases"]) != cases:
            raise InputError(f"the arms {first['arm']} and {REFERENCE} were measured on other cases.")
    groups = [first["groups"][name] for name in cases]
    columns = list(first["cases"][cases[0]])
    mine, other = (_columns(parts, cases, columns) for parts in (ours, theirs))
    own = estimates(means_of(mine), len(cases), groups=groups)
    same = first["arm"] == REFERENCE
    apart = {} if same else differences(means_of(mine), means_of(other), len(cases), groups=groups)
    return ArmResult(
        arm=first["arm"],
        part=first["part"],
        seeds=tuple(shared),
        steps=int(first["steps"]),
        dice=own["dice"],
        dice_difference=apart.get("dice"),
        cut_error_mm=own.get("cut_error_mm"),
        cut_difference_mm=apart.get("cut_error_mm"),
        structures={name: own[name].value for name in columns if name not in ("dice", "cut_error_mm")},
        blocks=first["blocks"],
        seconds_per_step=float(np.median([part["seconds_per_step"] for part in ours])),
        relative_time=float(
            np.median([part["seconds_per_step"] / part["reference_seconds_per_step"] for part in ours])
        ),
        parameters=int(first["parameters"]),
    )


def _columns(
    parts: Sequence[Mapping[str, Any]], cases: Sequence[str], columns: Sequence[str]
) -> dict[str, list[float]]:
    """Per figure its value of each case, the mean over seeds; NaN where it is not defined."""
    table = np.array(
        [[[part["cases"][case][column] for column in columns] for case in cases] for part in parts],
        dtype=np.float64,  # None becomes NaN
    )
    means = table.mean(0)
    return {column: means[:, place].tolist() for place, column in enumerate(columns)}


def own_figures(result: ArmResult) -> str:
    """What an arm's blocks do, in words; empty for one that has none to tell of."""
    blocks, told = result.blocks, []
    if latent := blocks.get("latent"):
        told.append(
            f"KL {latent['kl']:.2f} nats, {latent['active_dimensions']} of "
            f"{len(latent['kl_per_dimension'])} dimensions active"
        )
        if (change := latent.get("dice_change_when_shuffled")) is not None:
            told.append(f"another case's h: {100 * change:+.2f} points")
    if codes := blocks.get("codebook"):
        told.append(
            f"perplexity {codes['perplexity']:.1f} of {codes['codes']}, same code in "
            f"{100 * codes['same_case']:.0f} % (other cases {100 * codes['other_case']:.0f} %)"
        )
    if weights := blocks.get("scale_weights"):
        told.append("alpha " + ", ".join(f"{weight:.2f}" for weight in weights))
    if (accuracy := blocks.get("discriminator_accuracy")) is not None:
        told.append(f"discriminator right in {100 * accuracy:.1f} %")
    if paths := blocks.get("paths"):
        single = {name: value for name, value in paths.items() if name != "fused"}
        best = max(single, key=lambda name: single[name])
        told.append(f"fused {100 * paths['fused']:.2f}, best path alone ({best}) {100 * single[best]:.2f}")
    return "; ".join(told)


def _row(result: ArmResult) -> dict[str, Any]:
    difference, cut = result.dice_difference, result.cut_error_mm
    low, high = difference.interval_95 if difference else ("", "")
    return {
        "arm": result.arm,
        "part": result.part,
        "steps": result.steps,
        "seeds": len(result.seeds),
        "cases": result.dice.n,
        "dice": result.dice.value,
        "dice_difference": difference.value if difference else "",
        "dice_difference_low": low,
        "dice_difference_high": high,
        **{f"dice_{name}": value for name, value in result.structures.items()},
        "cut_error_mm": cut.value if cut else "",
        "cut_difference_mm": result.cut_difference_mm.value if result.cut_difference_mm else "",
        "seconds_per_step": result.seconds_per_step,
        "relative_time": result.relative_time,
        "parameters": result.parameters,
        "own_figures": own_figures(result),
    }


def _markdown(results: Sequence[ArmResult], plan: Mapping[str, Any], command: str) -> str:
    first = results[0]
    origin = "from random weights"
    if plan.get("start"):
        origin = "all from the weights of one earlier fit"
    elif plan.get("warm_up"):
        origin = f"all from one fit of {REFERENCE} of {plan['warm_up']} steps"
    lines = [
        "# Ablation",
        "",
        f"Each arm is {REFERENCE} and one part, fitted for {first.steps} steps {origin}, on the same patches;"
        f" {first.dice.n} held-out cases, {_plural(len(first.seeds), 'seed')}. Dice is the mean over"
        " structures and cases of the plain mean pass, in points (0 to 100). A difference is the arm's less"
        f" that of {REFERENCE}, paired by case, with a 95 % bootstrap interval over cases. Time is that of a"
        f" step over that of {REFERENCE}, taken in turn.",
        "",
    ]
    if command:
        lines += [f"`{command}`", ""]
    has_cut = first.cut_error_mm is not None
    head = ["arm", "part", "Dice", f"less {REFERENCE} [95 %]"]
    head += [f"cut error, mm (less {REFERENCE})"] if has_cut else []
    head += ["its own figures", "time", "parameters"]
    lines += [_line(head), _line(["---"] * len(head))]
    for result in results:
        cells = [result.arm, result.part, f"{100 * result.dice.value:.2f}", _points(result.dice_difference)]
        if has_cut:
            cells.append(_cut(result))
        cells += [own_figures(result), f"{result.relative_time:.2f} ×", f"{result.parameters:,}"]
        lines.append(_line(cells))
    return "\n".join([*lines, ""])


def _points(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    low, high = difference.interval_95
    return f"{100 * difference.value:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def _cut(result: ArmResult) -> str:
    if result.cut_error_mm is None:
        return "–"
    text = f"{result.cut_error_mm.value:.3f}"
    if result.cut_difference_mm is None:
        return text
    low, high = result.cut_difference_mm.interval_95
    return f"{text} ({result.cut_difference_mm.value:+.3f} [{low:+.3f}, {high:+.3f}])"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _row_of(seeds: Mapping[int, Mapping[str, Any]]) -> tuple[str, int]:
    """Sorts arms as SPEC numbers their parts: N2, N3, ... N11, then O2, ..."""
    row = next(iter(seeds.values()))["part"].split(":")[0]
    return row[:1], int(row[1:]) if row[1:].isdigit() else 0
