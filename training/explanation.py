# SPDX-License-Identifier: Apache-2.0
"""`python -m training explanations`: do the maps that explain a model mean anything?

    randomisation   weights are drawn anew from the last layer on; the map must not stay what it was
    pointing game   the maximum lies in or near the structure, more often than chance or the image's middle
    perturbation    blurring what the map names harms the segmentation more than blurring what was segmented
    regions         the map of one region of the worklist is not the structure's, nor another region's

Of cases that the model was not fitted on. What a case told is kept in OUTPUT/explanations, a file per case,
and not measured again for the same weights and settings. Writes summary.json and table.md beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from DIANetLib.acwi.window_maps import DEFAULT_WEIGHTING, WindowMaps, default_layers
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from DIANetLib.inference.grid import for_inference
from training.config import TrainingConfig
from training.datasets import Case, find_cases, load_case, split_cases
from training.evaluate import versions
from training.explanation_case import (
    Maps,
    cascade,
    perturbation,
    pointing,
    regions,
    values_of,
    worklist_places,
)
from training.explanation_maps import CAMS, Shown, cam, gradient, occlusion, shown
from training.explanation_measures import Map
from training.explanation_perturb import PerturbSettings
from training.explanation_tables import GATES, summarise, table
from training.progress import track
from training.summary import finite, write_json, write_text
from training.unseen import check_unseen, load_model_of

FORMAT = "dianet-explanations"
FORMAT_VERSION = 2
FOLDER = "explanations"
_PLACED = 32  # cases that say where structures usually lie


@dataclass(frozen=True)
class ExplanationRequest:
    """What is asked for.

    Attributes:
        config: the configuration that says how the data is read and divided.
        model: the model folder.
        data: folder of the data set.
        output: where the figures go.
        device: where the network runs.
        cases: so many are randomised, perturbed (for one of their structures, in turn) and asked for regions;
            the pointing game takes all cases and structures.
        context: for so many plain gradients and occlusion are measured too, which takes long.
        inner: look at the inner cases, on which choices are made, not at the held-out ones.
        samples: T of the worklist.
        seed: of everything random.
        perturb: how images are perturbed.
        occluder: edge of the cubes that are occluded, voxels.
        command: how this was called, for the record.
    """

    config: TrainingConfig
    model: Path
    data: Path
    output: Path
    device: torch.device
    cases: int = 14
    context: int = 0
    inner: bool = False
    samples: int = 10
    seed: int = 0
    perturb: PerturbSettings = field(default_factory=PerturbSettings)
    occluder: int = 12
    command: str = ""


def explanations(request: ExplanationRequest) -> dict[str, Any]:
    """Measure a model's maps; returns what summary.json holds.

    Raises:
        InputError: the model segments nothing, its structures are others than the configuration's, the cases
            are not those that it has not seen, or none of them has labels.
        BundleError: the model folder cannot be used.
    """
    start = time.perf_counter()
    config = request.config
    if not config.data.structures:
        raise InputError(f"{config.name!r} segments nothing, so that there is no structure to explain.")
    model = load_model_of(config, request.model)
    if len(model.network(request.device).divisor) != 3:
        raise InputError(f"expected a model of volumes, got {model.name!r}, which reads slices.")
    known = {case.name: case for case in find_cases(request.data, config.data)}
    fold = int(model.metadata.dianet.training.get("fold", 0))
    split = split_cases(list(known.values()), config.data, fold)
    check_unseen(model, split, fold, request.data)
    names = [n for n in (split.inner if request.inner else split.held_out) if known[n].labels is not None]
    if not names:
        raise InputError(f"no case of {request.data} that the model has not seen has labels.")
    network = for_inference(model.network(request.device), request.device)
    run = _Run(request, network, Segmenter(model, str(request.device)), model.sha256, default_layers(network))
    run.usual = usual_places([known[name] for name in split.train[:_PLACED]], config)
    folder = request.output / FOLDER
    rows = []
    for number, name in enumerate(track(names, "explanations", unit="case")):
        other = known[names[(number + 1) % len(names)]]
        rows.append(run.measured(number, known[name], other, folder))
    summary = finite(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": model.name,
            "weights_sha256": model.sha256,
            "layers": list(run.layers),
            "weighting": DEFAULT_WEIGHTING,
            "cases": names,
            "part": "inner" if request.inner else "held out",
            "settings": asdict(request.perturb) | {"samples": request.samples, "seed": request.seed},
            "gates": GATES,
            **summarise(rows, seed=request.seed),
            "command": request.command,
            "versions": versions(),
            "seconds": round(time.perf_counter() - start, 1),
        }
    )
    write_json(folder / "summary.json", summary)
    write_text(folder / "table.md", "\n".join(table(summary)) + "\n")
    return summary


def usual_places(cases: Sequence[Case], config: TrainingConfig) -> dict[int, tuple[float, ...]]:
    """Where the middle of each structure lies on average, as shares of the image's sizes (k, j, i)."""
    found: dict[int, list[Any]] = {v: [] for v in range(1, len(config.data.structures) + 1)}
    for case in track([case for case in cases if case.labels is not None], "usual places", unit="case"):
        labels = load_case(case, config).labels
        assert labels is not None
        for value, places in found.items():
            voxels = np.argwhere(labels == value)
            if len(voxels):
                places.append((voxels.mean(0) + 0.5) / labels.shape)
    middle = (0.5, 0.5, 0.5)
    return {v: tuple(np.mean(p, axis=0).tolist()) if p else middle for v, p in found.items()}


class _Run:
    """A model on its way through cases."""

    def __init__(
        self,
        request: ExplanationRequest,
        network: Any,
        engine: Segmenter,
        sha256: str,
        layers: tuple[str, ...],
    ) -> None:
        self.request, self.network, self.engine = request, network, engine
        self.layers = layers
        self.usual: dict[int, tuple[float, ...]] = {}
        settings = [request.samples, request.seed, asdict(request.perturb), request.occluder]
        self._key = json.dumps([FORMAT_VERSION, sha256, *settings, layers, DEFAULT_WEIGHTING])

    def measured(self, number: int, case: Case, other: Case, folder: Path) -> dict[str, Any]:
        """What a case tells, or told before."""
        file, request = folder / f"{case.name}.json", self.request
        known = _read(file, self._key)
        seen: list[tuple[Shown, dict[tuple[str, int], Map]]] = []

        def maps() -> tuple[Shown, Maps]:
            if not seen:
                seen.append(self._maps(case, folder))
            return seen[0]

        def one() -> tuple[Shown, Maps]:
            shown, found = maps()
            values = values_of(shown)
            chosen = values[number % len(values)]
            return shown, {key: values for key, values in found.items() if key[1] == chosen}

        def part(name: str, measure: Callable[[], Any]) -> None:
            if name not in known:
                known[name] = measure()
                write_json(file, {"key": self._key, "case": case.name, **known})

        part("pointing", lambda: pointing(*maps(), self.usual))
        if number < request.cases:
            part("perturbation", lambda: perturbation(self.network, *one(), request.perturb, request.seed))
            part("cascade", lambda: self._cascade(*one(), self._maps(other, folder)[1], number))
            part("regions", lambda: regions(self.network, *maps(), self._places(case, maps()[0])))
        if number < request.context:
            part("context", lambda: self._context(*one()))
        return {"case": case.name, **known}

    def _cascade(self, seen: Shown, maps: Maps, others: Maps, number: int) -> Any:
        return cascade(self.network, seen, maps, others, self.request.seed + number)

    def _places(self, case: Case, seen: Shown) -> Any:
        request = self.request
        return worklist_places(
            self.engine, case, seen, request.config, samples=request.samples, seed=request.seed
        )

    def _context(self, seen: Shown, maps: Maps) -> Any:
        """What plain gradients and occlusion would tell of the structure of these maps."""
        request = self.request
        ((_, value), *_) = maps
        mask = seen.found == value
        blur, edge = request.perturb.blurred_mm, request.occluder
        occluded = occlusion(self.network, seen, {value: mask}, blur, edge)[value]
        found = {
            ("gradient", value): gradient(self.network, seen, value, mask),
            ("occlusion", value): occluded,
        }
        return perturbation(self.network, seen, found, request.perturb, request.seed, rivals=False)

    def _maps(self, case: Case, folder: Path) -> tuple[Shown, dict[tuple[str, int], Map]]:
        """The case and its maps, which are kept beside the figures."""
        file = folder / "maps" / f"{case.name}.npz"
        seen = shown(self.network, case, self.request.config, self.engine.model.window)
        kept = _read_maps(file, self._key)
        if kept is None:
            window = WindowMaps(self.network, seen.x)
            kept = {
                (method, value): cam(window, seen, method, value, seen.found == value)
                for method in CAMS
                for value in values_of(seen)
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(".tmp.npz")
            arrays = {f"{method} {value}": values for (method, value), values in kept.items()}
            np.savez_compressed(temporary, key=np.array(self._key), **arrays)  # type: ignore[arg-type]
            temporary.replace(file)
        return seen, kept


def _read(file: Path, key: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or cut off: measured again
        return {}
    if not isinstance(found, dict) or found.pop("key", None) != key:
        return {}
    found.pop("case", None)
    return found


def _read_maps(file: Path, key: str) -> dict[tuple[str, int], Map] | None:
    try:
        with np.load(file, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return None
            names = [name for name in kept.files if name != "key"]
            return {(name.split()[0], int(name.split()[1])): kept[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
