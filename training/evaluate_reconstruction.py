# SPDX-License-Identifier: Apache-2.0
"""The reconstruction part of an evaluation, (20, 21): held-out images degraded on purpose and restored.

Every image is degraded once for each acceleration (or noise) of the task. Masks and noise depend on the seed,
the name of the case and the level alone, so that every model is judged on the very same measurements. What
was measured is put back where the operator is exact, after the windows have been blended. Judged beside the
network is the image that it was given: the zero-filled one, or the noisy one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.inference.sliding_window import round_up, whole_window
from DIANetLib.network import DIANet
from DIANetLib.operators import Denoising, ForwardOperator, cartesian_masks, complex_channels, consistent
from training.bootstrap import differences, estimates, means_of
from training.config import TrainingConfig
from training.config_tasks import ReconstructionTask
from training.datasets import Case, PreparedCase, load_case
from training.degrade import operator_of
from training.progress import track
from training.scoring_reconstruction import score_slices, shown
from training.trial import Trial

FIGURES = ("psnr_db", "ssim")


@dataclass(frozen=True, eq=False)
class Restored:
    """An image and what became of it, for one level of degradation.

    Attributes:
        level: how it was degraded, such as "4x" or "sigma 0.3".
        clean: (C, k, j, i).
        observed: what the network read.
        restored: what it made of it.
    """

    level: str
    clean: Tensor
    observed: Tensor
    restored: Tensor


@dataclass(frozen=True)
class SliceRow:
    """The figures of one slice at one level.

    Attributes:
        case: name of the case.
        group: what the case belongs to.
        level: as in `Restored`.
        slice: number of the slice along the first axis of the array.
        figures: "psnr_db" and "ssim", and the same of the observed image with "observed_" before them.
    """

    case: str
    group: str
    level: str
    slice: int
    figures: dict[str, float]

    @property
    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        place = {"case": self.case, "group": self.group, "level": self.level, "slice": self.slice}
        return {**place, **self.figures}


def task_of(config: TrainingConfig) -> ReconstructionTask:
    """The reconstruction task of a configuration.

    Raises:
        InputError: if it has none.
    """
    if config.tasks.reconstruction is None:
        raise InputError(f"expected a reconstruction task in the configuration of {config.name!r}, got none.")
    return config.tasks.reconstruction


def restore_case(
    network: DIANet, case: PreparedCase, config: TrainingConfig, *, seed: int = 0
) -> Iterator[Restored]:
    """Degrade and restore a case at every level of the task.

    Args:
        network: in evaluation mode.
        case: prepared.
        config: the task and the window.
        seed: of masks and noise.
    """
    task = task_of(config)
    device = next(network.parameters()).device
    rows = _rows(torch.from_numpy(case.image), flat=network.config.spatial_dims == 2)
    clean = complex_channels(rows) if task.complex and rows.shape[1] == 1 else rows
    for number, (level, strength) in enumerate(levels(task)):
        state = np.random.SeedSequence([seed, zlib.crc32(case.name.encode()), number])
        generator = torch.Generator().manual_seed(int(state.generate_state(1, np.uint64)[0] >> 1))
        if task.operator == "denoising":
            operator: ForwardOperator = Denoising(strength)
        else:
            size = tuple(clean.shape[2:])
            operator = operator_of(task, cartesian_masks(size, strength, task.centre_fraction, generator))
        observed = operator.observe(clean, generator)
        restored = restore_rows(network, observed.to(device), config).cpu()
        if operator.exact:
            restored = consistent(restored, observed, operator)
        yield Restored(level, _volume(clean), _volume(observed), _volume(restored))


def levels(task: ReconstructionTask) -> list[tuple[str, float]]:
    """The degradations that a task is judged at: every acceleration, or least, middle and greatest noise."""
    if task.operator == "kspace":
        return [(f"{factor:g}x", factor) for factor in task.accelerations]
    low, high = task.sigma
    return [(f"sigma {sigma:g}", sigma) for sigma in sorted({low, (low + high) / 2, high}) if sigma > 0]


@torch.inference_mode()
def restore_rows(network: DIANet, observed: Tensor, config: TrainingConfig) -> Tensor:
    """The mean pass over observed images, (B, C, *S) to the same.

    What a line of k-space lacks is spread over the whole image, so slices are read whole, and volumes if they
    are not much larger than the window.
    """
    size, divisor = tuple(observed.shape[2:]), network.divisor
    if network.config.spatial_dims == 2:
        window = config.window_kji[1:]
        roi = tuple(round_up(max(n, w), d) for n, w, d in zip(size, window, divisor, strict=True))
    else:
        roi = whole_window(size, config.window_kji, divisor) or config.window_kji

    def image(patch: Tensor) -> Tensor:
        return network(patch).reconstructed.image.float()

    blended = sliding_window_inference(observed, roi, 4, image, overlap=0.25, mode="gaussian")
    assert isinstance(blended, Tensor)  # one output, so no tuple or dict
    return blended


def reconstruction_rows(trial: Trial) -> list[SliceRow]:
    """Degrade, restore and score the held-out cases, slice by slice."""
    rows: list[SliceRow] = []
    for case in track(trial.held_out, "reconstruction", unit="case"):
        prepared = load_case(case, trial.reading)
        for found in restore_case(trial.network, prepared, trial.config, seed=trial.seed):
            rows += _slice_rows(case, found)
    if not rows:
        raise InputError("no slice of the held-out cases holds anything to reconstruct.")
    return rows


def reconstruction_summary(rows: Sequence[SliceRow], *, seed: int = 0) -> dict[str, Any]:
    """Per level the mean over slices of every figure, of its observed peer and of their difference.

    Intervals are bootstrapped over groups: all slices of one patient are drawn together.
    """
    found: dict[str, Any] = {}
    for level in dict.fromkeys(row.level for row in rows):
        chosen = [row for row in rows if row.level == level]
        groups = [row.group for row in chosen]
        ours = {name: [row.figures[name] for row in chosen] for name in FIGURES}
        peer = {name: [row.figures[f"observed_{name}"] for row in chosen] for name in FIGURES}
        count = len(chosen)
        restored = estimates(means_of(ours), count, groups=groups, seed=seed)
        observed = estimates(means_of(peer), count, groups=groups, seed=seed)
        gain = differences(means_of(ours), means_of(peer), count, groups=groups, seed=seed)
        found[level] = {
            "slices": count,
            "groups": len(set(groups)),
            "restored": {name: asdict(part) for name, part in restored.items()},
            "observed": {name: asdict(part) for name, part in observed.items()},
            "gain": {name: asdict(part) for name, part in gain.items()},
        }
    return {"levels": found}


def _slice_rows(case: Case, found: Restored) -> Iterator[SliceRow]:
    clean, observed, restored = (
        shown(image[None], found.clean[None])[0] for image in (found.clean, found.observed, found.restored)
    )
    pairs = zip(score_slices(restored, clean), score_slices(observed, clean), strict=True)
    for number, (ours, peer) in enumerate(pairs):
        if ours is not None and peer is not None:
            figures = {name: getattr(ours, name) for name in FIGURES}
            figures |= {f"observed_{name}": getattr(peer, name) for name in FIGURES}
            yield SliceRow(case.name, case.group or case.name, found.level, number, figures)


def _rows(image: Tensor, *, flat: bool) -> Tensor:
    """(M, k, j, i) as what the network reads: (k, M, j, i) for a 2-D one, else (1, M, k, j, i)."""
    return image.transpose(0, 1) if flat else image.unsqueeze(0)


def _volume(rows: Tensor) -> Tensor:
    """The inverse of `_rows`: (C, k, j, i)."""
    return rows.transpose(0, 1) if rows.ndim == 4 else rows.squeeze(0)
