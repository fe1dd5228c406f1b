# SPDX-License-Identifier: Apache-2.0
"""`python -m training one-pass`: a head that tells from one pass what T samples would, fitted and judged.

The head is distilled from the samples' maps of the fitted cases; the network stays as it is. Inner cases
calibrate its error probability and fit the Dice to be expected of one pass; held-out ones judge. Writes into
OUTPUT/one-pass

    summary.json     settings and figures; `--store` takes it from here
    cases.csv        a row per inner and held-out case
    head.safetensors the head
    maps, maps-fitted, inner, held-out, fit.csv   what is there is not done again
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from DIANetLib.bundle import LoadedModel
from DIANetLib.errors import InputError
from DIANetLib.network.one_pass import OnePassHead
from training.config import TrainingConfig
from training.datasets import Case, find_cases, split_cases
from training.error_calibration import fit_error_calibration
from training.evaluate import versions
from training.one_pass_fit import HeadSettings, Tensors, as_tensors, fit_head, new_head
from training.one_pass_judge import answers, case_figures, summarised
from training.one_pass_maps import MapSettings, make_maps, read_maps
from training.one_pass_quality import QualityPart, fitted_quality
from training.quality_series import Corruption, series
from training.summary import finite, write_json, write_table
from training.unseen import check_unseen, load_model_of

FORMAT = "dianet-one-pass"
FORMAT_VERSION = 1
FOLDER = "one-pass"
HEAD = "head.safetensors"


@dataclass(frozen=True)
class OnePassRequest:
    """What is asked for.

    Attributes:
        config: the configuration that says how the data is read and divided.
        data: folder of the data set.
        model: the model folder.
        output: any folder.
        device: where the network runs.
        head: how the head is fitted.
        samples: T of the maps that the head is judged against, 2 or more.
        teacher: T of the maps that it is fitted to, 2 or more.
        corrupted: also fit to a corrupted copy of the first so many fitted cases.
        seed: of samples and corruptions.
        quality: how expected Dice is fitted; None leaves it out.
        command: how this was called, for the record.
    """

    config: TrainingConfig
    data: Path
    model: Path
    output: Path
    device: torch.device
    head: HeadSettings = field(default_factory=HeadSettings)
    samples: int = 10
    teacher: int = 10
    corrupted: int = 0
    seed: int = 0
    quality: QualityPart | None = None
    command: str = ""


def one_pass(request: OnePassRequest) -> dict[str, Any]:
    """Fit and judge a one-pass head; returns what summary.json holds.

    Raises:
        InputError: there are fewer than two samples, or the cases are not those of the model.
        BundleError: the model folder cannot be used.
    """
    start = time.perf_counter()
    if min(request.samples, request.teacher) < 2:
        raise InputError(
            f"expected two samples or more, whose maps teach, got {min(request.samples, request.teacher)}."
        )
    config, folder = request.config, request.output / FOLDER
    model = load_model_of(config, request.model)
    fold = int(model.metadata.dianet.training.get("fold", 0))
    cases = {case.name: case for case in find_cases(request.data, config.data)}
    split = split_cases(list(cases.values()), config.data, fold)
    check_unseen(model, split, fold, request.data)
    names = {"fitted": split.train, "inner": split.inner, "held_out": split.held_out}
    parts = {
        part: [cases[name] for name in known if cases[name].labels is not None]
        for part, known in names.items()
    }
    fitted = _maps(request, model, parts["fitted"], _copies(parts["fitted"], request), "maps-fitted")
    head = _fitted(request, model, fitted, folder)
    inner = _maps(request, model, parts["inner"], [Corruption()] * len(parts["inner"]), "maps")
    correction = fit_error_calibration((answers(head, case) for case in inner), head.classes)
    held_out = _maps(request, model, parts["held_out"], [Corruption()] * len(parts["held_out"]), "maps")
    corrections = (model.error_calibration, correction)
    judged = {
        part: [
            case_figures(head, case, temperature=model.temperature, corrections=corrections) for case in found
        ]
        for part, found in (("inner", inner), ("held_out", held_out))
    }
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"part": part, "case": case.name, **{key: round(value, 5) for key, value in row.items()}}
        for part, found in judged.items()
        for case, row in zip(parts[part], found, strict=True)
    ]
    write_table(folder / "cases.csv", rows)
    told = None
    if request.quality is not None:
        told = fitted_quality(
            request.quality, config, model, head, correction, parts, folder, device=request.device
        )
    summary = finite(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": config.name,
            "weights_sha256": model.sha256,
            "fold": fold,
            "settings": asdict(request.head),
            "samples": request.samples,
            "teacher": request.teacher,
            "seed": request.seed,
            "fitted": len(parts["fitted"]),
            "corrupted": request.corrupted,
            "parameters": head.parameter_count(),
            "head_sha256": hashlib.sha256((folder / HEAD).read_bytes()).hexdigest(),
            "error_calibration": correction.to_json(),
            "inner": [case.name for case in parts["inner"]],
            "held_out": [case.name for case in parts["held_out"]],
            "figures": {part: summarised(found, seed=request.seed) for part, found in judged.items()},
            "quality": told,
            "command": request.command,
            "versions": versions(),
            "device": str(request.device),
            "seconds": round(time.perf_counter() - start, 1),
        }
    )
    write_json(folder / "summary.json", summary)
    return summary


def _copies(cases: Sequence[Case], request: OnePassRequest) -> list[Corruption]:
    """What is done to each fitted case, and then to copies of the first ones, kind after kind."""
    kinds = [one for one in series() if one.kind != "none"]
    return [Corruption()] * len(cases) + [
        kinds[number % len(kinds)] for number in range(min(request.corrupted, len(cases)))
    ]


def _maps(
    request: OnePassRequest,
    model: LoadedModel,
    cases: Sequence[Case],
    corruptions: Sequence[Corruption],
    name: str,
) -> list[Tensors]:
    """The maps of cases, and of corrupted copies of the first ones where there are more corruptions."""
    samples = request.teacher if name == "maps-fitted" else request.samples
    chosen = [*cases, *cases[: len(corruptions) - len(cases)]]
    files = make_maps(
        model.network(request.device),
        request.config,
        chosen,
        corruptions,
        request.output / FOLDER / name,
        MapSettings(model.sha256, model.temperature, samples, request.seed, model.mirror_samples),
        title=name,
    )
    return [as_tensors(read_maps(file), model.temperature, request.device) for file in files]


def _fitted(
    request: OnePassRequest, model: LoadedModel, cases: Sequence[Tensors], folder: Path
) -> OnePassHead:
    """The head, fitted now or found as it was fitted before with the same settings on as many cases."""
    folder.mkdir(parents=True, exist_ok=True)
    file, note = folder / HEAD, folder / "head.json"
    key = json.dumps([model.sha256, asdict(request.head), request.teacher, request.seed, len(cases)])
    if file.is_file() and note.is_file() and note.read_text(encoding="utf-8") == key:
        head = new_head(cases[0], request.head)
        head.load_state_dict(load_file(file))
        return head.to(request.device).eval().requires_grad_(False)
    head = fit_head(cases, request.head, log=folder / "fit.csv")
    save_file({name: value.cpu().contiguous() for name, value in head.state_dict().items()}, file)
    note.write_text(key, encoding="utf-8")
    return head
