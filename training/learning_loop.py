# SPDX-License-Identifier: Apache-2.0
"""`python -m training learning-loop`: what a model gains from 5, 10, 20 corrected cases of a new site.

A site is held back (`training.learning_site`), some of its cases are segmented with the model and corrected
by a simulated reviewer, and the packages, the files that 3D Slicer writes, go through `training.finetune`.
Peers get the same packages. All are judged on other cases of the site and on the model's own held-out ones,
but for those by which `finetune` itself judges.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from DIANetLib.bundle import LoadedModel, load_bundle
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from training.bootstrap import differences, estimates, means_of
from training.config import TrainingConfig
from training.datasets import PreparedCase, find_cases, load_case
from training.finetune import NotShipped, Request, load_corrected, run_finetune
from training.finetune_config import FinetuneConfig
from training.finetune_fit import Material, learn
from training.finetune_judge import dice_of
from training.finetune_model import config_of, weights_of
from training.fit_state import model_on
from training.interrupt import stop_request
from training.learning_site import Division, Reviewer, review
from training.progress import track
from training.rehearsal import divided

Weights = Mapping[str, Tensor]

#: What each arm changes of the settings; "finetune" is the command as it is.
ARMS: Mapping[str, Mapping[str, Any]] = {
    "finetune": {},
    "plain": {"l2_sp": 0.0, "ewc": 0.0},
    "scratch": {"l2_sp": 0.0, "ewc": 0.0},
}
_WORDS = {
    "none": "no fine-tuning",
    "finetune": "`finetune`",
    "plain": "plain fine-tuning",
    "scratch": "from scratch",
}


@dataclass(frozen=True, eq=False)
class Loop:
    """The experiment.

    Attributes:
        config: of the data set, as the model was fitted.
        settings: of learning.
        model: fitted without the site.
        folders: the model's own data and the site.
        output: where packages, fits and figures go.
        device: of the network.
        counts: numbers of corrected cases, rising.
        arms: out of `ARMS`.
        reviewer: see `training.learning_site.review`.
        regions: see there.
        scratch_steps: steps of a fit from scratch, which needs more.
        seed: of the choice of cases.
    """

    config: TrainingConfig
    settings: FinetuneConfig
    model: LoadedModel
    folders: Division
    output: Path
    device: torch.device
    counts: tuple[int, ...] = (5, 10, 20)
    arms: tuple[str, ...] = tuple(ARMS)
    reviewer: Reviewer = "all"
    regions: int = 10
    scratch_steps: int = 800
    seed: int = 1


def run_loop(loop: Loop) -> Path:
    """Review, learn, judge, and write OUTPUT/learning.json and .md; what is done already is kept.

    Raises:
        InputError: the site has too few cases.
        Cancelled: stopped by a signal; the same command goes on.
    """
    config = config_of(loop.model, loop.settings, loop.config.data)
    cases = find_cases(loop.folders.site, loop.config.data)
    most = max(loop.counts)
    unknown = sorted(set(loop.arms) - set(ARMS))
    if unknown:
        raise InputError(f"There is no arm {', '.join(unknown)}, only {', '.join(ARMS)}.")
    if len(cases) < most + 2:
        raise InputError(
            f"The site has {len(cases)} cases, expected at least {most + 2} for {most} corrected."
        )
    order = np.random.default_rng([loop.seed, 17]).permutation(len(cases))
    chosen, unseen = [cases[n] for n in order[:most]], [cases[n] for n in order[most:]]
    packages = loop.output / f"packages-{loop.reviewer}"
    listed = _reviewed(loop, chosen, packages)
    held = set(loop.model.metadata.dianet.training.get("held_out") or ())
    settings = loop.settings
    _, choosing, _ = divided(loop.folders.old, config, loop.model, settings.rehearsal, settings.seed)
    held -= {case.name for case in choosing}  # they choose how far `finetune` goes
    if not held:
        raise InputError(
            f"None of the model's held-out cases is left beside the {len(choosing)} by which `finetune`"
            " judges.",
            remedy="Lower rehearsal.judged.",
        )
    old = [case for case in find_cases(loop.folders.old, loop.config.data) if case.name in held]
    new_cases = [load_case(case, config) for case in track(unseen, "unseen cases of the site", unit="case")]
    old_cases = [load_case(case, config) for case in track(old, "held-out cases", unit="case")]
    judge = _judge(loop, config, new_cases, old_cases)
    results = {"none": judge("none", lambda: weights_of(loop.model))}
    for count in loop.counts:
        few = _some(packages, listed[:count], loop.output / f"packages-{loop.reviewer}-{count}")
        for arm in loop.arms:
            name = f"{arm}-{loop.reviewer}-{count}"
            results[name] = judge(name, partial(_fit, loop, config, arm, few, name))
    return write_report(loop, results)


def _reviewed(loop: Loop, cases: Sequence[Any], packages: Path) -> list[str]:
    """Names of the packages, one per case in order; those that are there are kept."""
    index = packages / "index.json"
    listed: list[str] = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else []
    segmenter = Segmenter(loop.model, str(loop.device))
    packages.mkdir(parents=True, exist_ok=True)
    for case in track(cases[len(listed) :], "review", unit="case"):
        folder = review(
            segmenter,
            case,
            loop.config.data,
            packages,
            reviewer=loop.reviewer,
            most=loop.regions,
            samples=loop.settings.judging.samples,
        )
        listed.append(folder.name)
        index.write_text(json.dumps(listed), encoding="utf-8")
    return listed


def _some(packages: Path, names: Sequence[str], folder: Path) -> Path:
    """A folder with some of the packages."""
    if not folder.is_dir():
        for name in names:
            shutil.copytree(packages / name, folder / name)
    return folder


def _fit(loop: Loop, config: TrainingConfig, arm: str, packages: Path, name: str) -> Weights:
    """Weights of an arm after learning from some packages."""
    output = loop.output / "fits" / name
    own = loop.settings.model_copy(update=dict(ARMS[arm]))
    if arm != "finetune":  # as many patches in a step, all of them of corrected cases
        own = own.model_copy(update={"rows": own.rows + own.rehearsal.rows})
    request = Request(
        loop.model.path,
        packages,
        output,
        rehearse=loop.folders.old,
        rehearse_as=loop.config.data,
        replace=True,
        unjudged=True,
    )
    if arm == "finetune":
        try:
            return weights_of(load_bundle(run_finetune(request, own, loop.device)))
        except NotShipped as error:  # what a user is left with then is the model before
            print(f"{name}: {error}")
            return weights_of(loop.model)
    corrected = load_corrected(request, loop.model, config)
    start: Weights = weights_of(loop.model)
    if arm == "scratch":
        torch.manual_seed(loop.seed)
        start = {name: value.float() for name, value in model_on(config, loop.device).state_dict().items()}
        own = own.model_copy(update={"steps": loop.scratch_steps, "learning_rate": 1e-3})
    with stop_request() as stop:
        material = Material(corrected, (), start, None)
        return learn(config, own, material, output / "fit.pt", loop.device, title=name, stop=stop)


Judge = Callable[[str, Callable[[], Weights]], dict[str, dict[str, float]]]


def _judge(
    loop: Loop, config: TrainingConfig, new: Sequence[PreparedCase], old: Sequence[PreparedCase]
) -> Judge:
    """A function that gives Dice by case of some weights on the site and on the old cases, made once."""

    def judge(name: str, weights: Callable[[], Weights]) -> dict[str, dict[str, float]]:
        path = loop.output / "judged" / f"{name}.json"
        if path.is_file():
            found: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
            return found
        fitted = weights()
        found = {
            part: {
                case.name: dice
                for case, dice in zip(cases, dice_of(config, fitted, cases, loop.device), strict=True)
            }
            for part, cases in (("new", new), ("old", old))
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(name, {part: round(float(np.mean(list(dice.values()))), 4) for part, dice in found.items()})
        return found

    return judge


def write_report(loop: Loop, results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Path:
    """Write the table: Dice with intervals over cases, and differences to no fine-tuning in pairs."""
    rows: list[dict[str, Any]] = []
    for name, parts in results.items():
        row: dict[str, Any] = {"arm": name}
        for part, dice in parts.items():
            ours = means_of({"dice": list(dice.values())})
            theirs = means_of({"dice": list(results["none"][part].values())})
            whole = estimates(ours, len(dice))["dice"]
            apart = differences(ours, theirs, len(dice))["dice"]
            row[part] = {
                "dice": whole.value,
                "interval_95": list(whole.interval_95),
                "difference": apart.value,
                "difference_interval_95": list(apart.interval_95),
                "cases": whole.n,
            }
        rows.append(row)
    document = {
        "model": vars(loop.model.ref),
        "settings": loop.settings.model_dump(mode="json"),
        "arms": rows,
    }
    (loop.output / "learning.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    path = loop.output / "learning.md"
    path.write_text(_markdown(rows), encoding="utf-8")
    return path


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = [str(rows[0][part]["cases"]) for part in ("new", "old")]
    lines = [
        f"| corrected cases | arm | new site, {counts[0]} unseen | against none | old, {counts[1]} held out |"
        " against none |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        arm, _, rest = str(row["arm"]).partition("-")
        cells = [rest.rpartition("-")[2] or "0", _WORDS[arm]]
        for part in ("new", "old"):
            figures = row[part]
            low, high = figures["interval_95"]
            less, more = figures["difference_interval_95"]
            cells.append(f"{figures['dice']:.4f} ({low:.4f}–{high:.4f})")
            cells.append(
                "" if arm == "none" else f"{figures['difference']:+.4f} ({less:+.4f} to {more:+.4f})"
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
