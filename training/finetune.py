# SPDX-License-Identifier: Apache-2.0
"""`python -m training finetune`: a model learns from corrected segmentations, without forgetting.

The corrected cases are divided, and each part is judged by a fit on the others; the candidate is then fitted
on all of them, and taken as far from the model before as it does not forget. It is shipped unless it got
worse, on those or on cases of its own data.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from DIANetLib.acwi.corrections import find_corrections, read_correction
from DIANetLib.bundle import LoadedModel, load_bundle
from DIANetLib.errors import InputError, OutputError
from training.config import DataConfig, TrainingConfig
from training.data_folder import data_folder
from training.finetune_bundle import ancestry_of, next_version, write_learned
from training.finetune_cases import CorrectedCase, by_group, load_case_of
from training.finetune_config import FinetuneConfig
from training.finetune_fit import Material, State, estimate_fisher, learn
from training.finetune_judge import (
    CaseJudgement,
    Score,
    Verdict,
    as_json,
    as_markdown,
    blended,
    choose_share,
    dice_of,
    judge_corrected,
    judge_rehearsed,
    scores_of,
    verdict,
)
from training.finetune_model import config_of, weights_of
from training.finetune_reviewers import choose
from training.fit_state import model_on
from training.interrupt import stop_request
from training.progress import track
from training.rehearsal import Rehearsal, load_rehearsal
from training.temperature import fit_sampled_temperature
from training.trial import sampled_logits

TABLE = "before_after"
_VOXELS = 2000  # per case, for the temperature


class NotShipped(InputError):  # noqa: N818 (an outcome, as Cancelled is)
    """The candidate got worse; the table says where."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        model: the model folder to start from.
        corrections: folder of correction packages.
        output: where everything goes.
        rehearse: folder of cases of the model's own data, or None.
        rehearse_as: how they are laid out; None for images/ and labels/ with the model's own values.
        reviewers: which correction counts where several are of one image.
        images: folder where images are looked for that are not where they were.
        version: of the new model; the next one when None.
        replace: replace a model folder that is there.
        unjudged: ship without judging on corrected cases.
    """

    model: Path
    corrections: Path
    output: Path
    rehearse: Path | None = None
    rehearse_as: DataConfig | None = None
    reviewers: str | None = None
    images: Path | None = None
    version: str | None = None
    replace: bool = False
    unjudged: bool = False


def run_finetune(request: Request, settings: FinetuneConfig, device: torch.device) -> Path:
    """Learn, judge and write OUTPUT/models/NAME; returns that folder.

    Raises:
        InputError: bad input.
        NotShipped: the candidate got worse; the table is there to read.
        Cancelled: stopped by a signal; the same command goes on.
        BundleError, ConfigError, OutputError: in a sentence.
    """
    model = load_bundle(request.model)
    config = config_of(model, settings)
    folder = request.output / "models" / model.name
    if folder.exists() and not request.replace:
        raise OutputError(
            f"The model folder {folder} is there already.",
            remedy="Give another --output, or replace it with --replace.",
        )
    corrected = load_corrected(request, model, config)
    rehearsal = _rehearsal(request, settings, model)
    groups = len(by_group(corrected))
    if groups < 2 and not request.unjudged:
        raise InputError(
            f"There is {groups} corrected image, too few to judge on: at least 2 are needed, one to fit on"
            " and one to see whether it helped.",
            remedy="Correct more images, or take the model unjudged with --unjudged.",
        )
    try:
        request.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{request.output} cannot be made: {error.strerror}.") from error
    start = weights_of(model)
    with stop_request() as stop:
        run = _Run(config, settings, start, corrected, rehearsal, request.output / "fits", device, stop)
        parts = [] if request.unjudged else run.parts()
        last = run.fitted(corrected, "all")
        candidates = run.candidates(parts, last)
        share = choose_share({share: part.verdict for share, part in candidates.items()})
        temperature = run.temperature(parts, last, share) or model.temperature
    chosen = candidates[share]
    found = replace(
        chosen.verdict, notes=(*chosen.verdict.notes, *_notes(request, model, corrected, rehearsal))
    )
    table = {"share": share, **as_json(found, chosen.new, chosen.old)}
    weights = blended(start, last, share)
    _write_table(request.output, model, table)
    print(as_markdown(table))
    if found.reasons:
        raise NotShipped(
            f"The candidate got worse and is not shipped: {'; '.join(found.reasons)}. The table is in"
            f" {request.output / TABLE}.md.",
            remedy="Give more corrections, data to rehearse, or a larger l2_sp or ewc.",
        )
    return write_learned(
        request.output / "models",
        model,
        weights,
        version=request.version or next_version(model.version),
        config=config,
        settings=settings,
        corrected=corrected,
        rehearsal=rehearsal,
        table=table,
        temperature=temperature,
        replace=request.replace,
    )


def load_corrected(request: Request, model: LoadedModel, config: TrainingConfig) -> list[CorrectedCase]:
    """Read all packages and check them before anything is fitted.

    Raises:
        InputError: there is none, one is damaged, of other structures or of an image that is not found; or
            several reviewers corrected one image and nobody said which counts.
    """
    folders = find_corrections(request.corrections)
    if not folders:
        raise InputError(
            f"{request.corrections} holds no correction package.",
            remedy="Finish a review with corrections, or write one with `dianet correct`.",
        )
    chosen = choose([read_correction(folder) for folder in folders], request.reviewers)
    found: list[CorrectedCase] = []
    for part in track(chosen, "corrections", unit="image"):
        found += load_case_of(part, model, config, request.images)
    changed = sum(int(part.correction.changed.sum()) for part in chosen)
    print(f"{len(chosen)} corrected images, {changed:,} voxels changed", file=sys.stderr)
    return found


def folds_of(cases: Sequence[CorrectedCase], folds: int, seed: int) -> list[list[CorrectedCase]]:
    """The cases in so many parts, at most one per image; sides of one head stay together."""
    groups = list(by_group(cases).values())
    order = np.random.default_rng([seed, 13]).permutation(len(groups))
    parts = np.array_split(order, min(folds, len(groups)))
    return [[case for number in part for case in groups[number]] for part in parts]


@dataclass(frozen=True, eq=False)
class _Part:
    """Corrected cases and the weights of a fit on all others."""

    cases: list[CorrectedCase]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class _Candidate:
    """What was found of a candidate."""

    new: list[CaseJudgement]
    old: list[CaseJudgement]
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class _Run:
    """The fits of a request; arguments as their names say."""

    config: TrainingConfig
    settings: FinetuneConfig
    start: dict[str, Tensor]
    corrected: Sequence[CorrectedCase]
    rehearsal: Rehearsal
    folder: Path
    device: torch.device
    stop: Callable[[], bool]
    known: list[State] = field(default_factory=list)

    def fitted(self, cases: Sequence[CorrectedCase], name: str) -> dict[str, Tensor]:
        """Weights after a fit on some of the corrected cases."""
        fisher = partial(self.fisher, cases) if self.settings.ewc > 0 else None
        material = Material(cases, self.rehearsal.buffer, self.start, fisher)
        path = self.folder / f"{name}.pt"
        return learn(
            self.config, self.settings, material, path, self.device, title=f"fit {name}", stop=self.stop
        )

    def fisher(self, cases: Sequence[CorrectedCase]) -> State:
        """Fisher information on the buffer, the same for every fit; on the corrected cases without one."""
        buffer = self.rehearsal.buffer
        if buffer and self.known:
            return self.known[0]
        images = buffer or [case.case for case in cases]
        found = estimate_fisher(self.config, self.settings, self.start, images, self.device)
        if buffer:
            self.known.append(found)
        return found

    def parts(self) -> list[_Part]:
        """The corrected cases in parts, each with a fit on the others."""
        folds = folds_of(self.corrected, self.settings.judging.folds, self.settings.seed)
        found = []
        for number, part in enumerate(folds, start=1):
            aside = {id(case) for case in part}
            rest = [case for case in self.corrected if id(case) not in aside]
            found.append(_Part(part, self.fitted(rest, f"{number} of {len(folds)}")))
        return found

    def candidates(self, parts: Sequence[_Part], last: dict[str, Tensor]) -> dict[float, _Candidate]:
        """What comes of each share of the way: new cases by the fits on others, old ones by the last."""
        shares, judging = self.settings.judging.shares, self.settings.judging
        cases = [case for part in parts for case in part.cases]
        before = scores_of(self.config, self.start, cases, self.device)
        old_before = dice_of(self.config, self.start, self.rehearsal.judged, self.device)
        found = {}
        for share in track(shares, "judge", unit="candidate"):
            after: list[Score] = []
            for part in parts:
                weights = blended(self.start, part.weights, share)
                after += scores_of(self.config, weights, part.cases, self.device)
            weights = blended(self.start, last, share)
            old_after = dice_of(self.config, weights, self.rehearsal.judged, self.device)
            new = judge_corrected(cases, before, after)
            old = judge_rehearsed(self.rehearsal.judged, old_before, old_after)
            found[share] = _Candidate(new, old, verdict(new, old, judging, self.settings.seed))
        return found

    def temperature(self, parts: Sequence[_Part], last: dict[str, Tensor], share: float) -> float | None:
        """The temperature by cases that no fit has seen; None where there is none, or it is not asked for."""
        samples = self.settings.judging.samples
        groups = [(part.weights, [case.case for case in part.cases]) for part in parts]
        groups.append((last, list(self.rehearsal.judged)))
        pairs: list[Any] = []
        for fitted, cases in groups if samples else []:
            network = model_on(self.config, self.device)
            network.load_state_dict(blended(self.start, fitted, share))
            network.eval()
            for case in cases:
                pairs += sampled_logits(
                    network,
                    case,
                    self.config.window_kji,
                    samples=samples,
                    seed=self.settings.seed,
                    voxels=_VOXELS,
                )
        return fit_sampled_temperature([z for z, _ in pairs], [y for _, y in pairs]) if pairs else None


def _rehearsal(request: Request, settings: FinetuneConfig, model: LoadedModel) -> Rehearsal:
    if request.rehearse is None:
        return Rehearsal()
    config = config_of(model, settings, request.rehearse_as)
    folder = data_folder(config.data, request.rehearse, download=False)
    return load_rehearsal(folder, config, model, settings.rehearsal, settings.seed)


def _notes(
    request: Request, model: LoadedModel, corrected: Sequence[CorrectedCase], rehearsal: Rehearsal
) -> list[str]:
    notes = []
    groups = len(by_group(corrected))
    line = {entry["sha256"] for entry in ancestry_of(model)}
    others = {case.made_with for case in corrected if case.made_with and case.made_with.sha256 not in line}
    if others:
        names = ", ".join(sorted(f"{other.name} {other.version}" for other in others))
        notes.append(f"Some corrections are of segmentations by other models ({names}).")
    if request.unjudged:
        notes.append("Whether corrected cases gained was not judged (--unjudged).")
    elif groups < 5:
        notes.append(f"{groups} corrected images are few: the interval says how little the comparison tells.")
    if request.rehearse is None:
        notes.append("No data was rehearsed (--rehearse): whether old cases lost was not judged.")
    elif not rehearsal.unseen:
        notes.append(
            "The model before may have been fitted on the rehearsed cases that judge, which favours it."
        )
    return notes


def _write_table(output: Path, model: LoadedModel, table: dict[str, Any]) -> None:
    record = {"format": "dianet-before-after", "model": vars(model.ref), **table}
    text = [f"# {model.name} {model.version}, before and after", as_markdown(table)]
    text += [*(f"Not shipped: {reason}." for reason in table["reasons"]), *table["notes"]]
    try:
        (output / f"{TABLE}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (output / f"{TABLE}.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"The table cannot be written to {output}: {error.strerror}.") from error
