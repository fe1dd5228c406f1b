# SPDX-License-Identifier: Apache-2.0
"""What methods of uncertainty give of a case, near the structure: kept per case and method, done once.

Judged are the voxels within three of the reference or of the plain pass's segmentation: the same voxels for
all methods. Of inner cases the passes themselves are kept, since a temperature is fitted on them; of held-out
ones only running sums, at the temperature of each method.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.acwi.metrics import dilated_mask
from DIANetLib.acwi.uncertainty import RunningUncertainty
from DIANetLib.errors import InputError
from DIANetLib.labelling import labels_of, labels_of_logits
from DIANetLib.network import DIANet, SegmentationOutput
from training.compare_methods import Method
from training.compare_passes import SHIPPED, Pass, one_window, run_passes
from training.config import TrainingConfig
from training.datasets import Case, PreparedCase, load_case
from training.predict import structure_dice
from training.scoring import MARGIN_VOXELS

FORMAT_VERSION = 2
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Near:
    """Where a case is judged.

    Attributes:
        true: (V,) true classes of the judged voxels.
        mask: (k, j, i) bool, those voxels.
    """

    true: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Told:
    """What one method gives of one case.

    Attributes:
        probabilities: (K, V) mean over the passes.
        epistemic: (V,) entropy of the mean less mean of the entropies, nats.
        dice: (K - 1,) of the structures, over the whole case; NaN where neither has the structure.
        error: (V,) what a one-pass head gives as the probability of an error; None elsewhere.
    """

    probabilities: FloatArray
    epistemic: FloatArray
    dice: npt.NDArray[np.float64]
    error: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Runner:
    """Runs and keeps passes.

    Attributes:
        networks: by name, in evaluation mode on the CPU.
        hashes: of their weights.
        config: how cases are read.
        folder: where things are kept.
        seed: of the random numbers.
    """

    networks: Mapping[str, DIANet]
    hashes: Mapping[str, str]
    config: TrainingConfig
    folder: Path
    seed: int = 0

    def near(self, case: Case) -> Near:
        """The voxels that are judged."""
        file = self.folder / case.name / "near.npz"
        key = self._key([SHIPPED])
        known = load_arrays(file, key)
        if known is None:
            loaded = self._load(case)
            _, output = next(self._run(loaded, [Pass()]))
            assert loaded.labels is not None  # checked in _load
            plain = labels_of_logits(output.mean[0]).numpy()
            mask = dilated_mask((loaded.labels > 0) | (plain > 0), MARGIN_VOXELS)
            known = {"true": loaded.labels[mask].astype(np.uint8), "mask": mask}
            save_arrays(file, key, known)
        return Near(known["true"], known["mask"])

    def log_probabilities(self, case: Case, methods: Sequence[Method]) -> dict[str, FloatArray]:
        """Log-probabilities (T, V, K) of every pass of each method at temperature 1, at the judged voxels."""
        near = self.near(case)
        wanted = {(one, method.noise) for method in methods for one in method.passes}
        found: dict[tuple[Pass, bool], FloatArray] = {}
        for one, noise in wanted:
            known = load_arrays(self._pass_file(case, one, noise), self._key([one.weights]))
            if known is not None:
                found[one, noise] = known["values"]
        missing = {one for one, noise in wanted if (one, noise) not in found}
        if missing:
            for one, output in self._run(self._load(case), sorted(missing)):
                for noise in [noise for other, noise in wanted if other == one]:
                    values = _log_probabilities(output, near.mask, noise)
                    found[one, noise] = values
                    save_arrays(
                        self._pass_file(case, one, noise), self._key([one.weights]), {"values": values}
                    )
        return {
            method.name: np.stack([found[one, method.noise] for one in method.passes]) for method in methods
        }

    def told(
        self, case: Case, methods: Sequence[Method], temperatures: Mapping[str, float]
    ) -> dict[str, Told]:
        """What each method gives of a case at its temperature."""
        found: dict[str, Told] = {}
        keys = {
            method.name: self._key([one.weights for one in method.passes], temperatures[method.name], method)
            for method in methods
        }
        for method in methods:
            known = load_arrays(self._method_file(case, method), keys[method.name])
            if known is not None:
                found[method.name] = Told(**known)
        missing = [method for method in methods if method.name not in found]
        if not missing:
            return found
        near, loaded = self.near(case), self._load(case)
        assert loaded.labels is not None  # checked in _load
        running = {
            method.name: RunningUncertainty((self.config.network.classes, *loaded.labels.shape))
            for method in missing
        }
        heads: dict[str, tuple[Tensor, ...]] = {}
        for one, output in self._run(loaded, sorted({one for m in missing for one in m.passes})):
            for method in missing:
                if one in method.passes:
                    heads[method.name] = output.auxiliary
                    running[method.name].update(
                        probabilities_of(output, temperatures[method.name], method.noise)
                    )
        for method in missing:
            maps = running[method.name].finish()
            mean = maps.mean_probability.numpy()
            labels = labels_of(mean)
            arrays = {
                "probabilities": mean[:, near.mask],
                "epistemic": maps.epistemic.numpy()[near.mask],
                "dice": structure_dice(labels, loaded.labels, self.config.network.classes),
            }
            if heads[method.name]:
                error, share = (part[0, 0].numpy()[near.mask] for part in heads[method.name])
                arrays |= {"epistemic": share * maps.total.numpy()[near.mask], "error": error}
            save_arrays(self._method_file(case, method), keys[method.name], arrays)
            found[method.name] = Told(**arrays)
        return found

    def _load(self, case: Case) -> PreparedCase:
        loaded = load_case(case, self.config)
        if loaded.labels is None:
            raise InputError(f"expected a case with labels to compare with, got {case.name} without.")
        return loaded

    def _run(self, loaded: PreparedCase, passes: Sequence[Pass]) -> Iterator[tuple[Pass, SegmentationOutput]]:
        network = self.networks[SHIPPED]
        window = one_window(network, loaded.image.shape[1:], self.config.window_kji, loaded.name)
        return run_passes(self.networks, torch.from_numpy(loaded.image), window, passes, seed=self.seed)

    def _key(
        self, weights: Sequence[str], temperature: float | None = None, method: Method | None = None
    ) -> str:
        hashes = [self.hashes[name] for name in sorted(set(weights) | {SHIPPED})]
        passes = [one.name for one in method.passes] if method else []
        rounded = None if temperature is None else round(temperature, 4)
        return json.dumps(
            [FORMAT_VERSION, hashes, self.seed, rounded, passes, method.noise if method else None]
        )

    def _pass_file(self, case: Case, one: Pass, noise: bool) -> Path:
        return self.folder / case.name / f"pass-{one.name}{'' if noise else '-without-noise'}.npz"

    def _method_file(self, case: Case, method: Method) -> Path:
        return self.folder / case.name / f"method-{method.name}.npz"


def probabilities_of(output: SegmentationOutput, temperature: float, noise: bool) -> Tensor:
    """Probabilities (1, K, *S) of a pass."""
    without = SegmentationOutput(output.mean, None)
    return (output if noise else without).probabilities(temperature)


def save_arrays(file: Path, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays and what they were made of, aside and renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, key=np.array(key), **arrays)  # type: ignore[arg-type] # numpy's stubs
    temporary.replace(file)


def load_arrays(file: Path, key: str) -> dict[str, npt.NDArray[Any]] | None:
    """Arrays that were made of the same; None if there are none."""
    try:
        with np.load(file) as stored:
            if str(stored["key"]) != key:
                return None
            return {name: stored[name] for name in stored.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # none, cut off or foreign: done again
        return None


def _log_probabilities(output: SegmentationOutput, mask: npt.NDArray[np.bool_], noise: bool) -> FloatArray:
    values = probabilities_of(output, 1.0, noise)[0].numpy()[:, mask].T
    return np.asarray(np.log(np.maximum(values, np.finfo(np.float32).tiny)))
