# SPDX-License-Identifier: Apache-2.0
"""What a one-pass head is fitted on: features of the mean pass, maps of T samples, true labels, per case.

Making them is what takes long; they are kept as one file per case and copy, and not made again for the same
weights and settings.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.acwi.metrics import dilated_mask
from DIANetLib.errors import InputError
from DIANetLib.inference.grid import for_inference
from DIANetLib.inference.memory import divisors
from DIANetLib.inference.sampling import sample_window
from DIANetLib.inference.sliding_window import usual_windows
from DIANetLib.labelling import labels_of
from DIANetLib.network import DIANet
from DIANetLib.network.one_pass import cropped
from training.config import TrainingConfig
from training.datasets import Case, PreparedCase, prepare_case, read_case
from training.progress import track
from training.quality_series import Corruption, corrupted

FORMAT_VERSION = 1
#: Voxels around reference and predictions within which uncertainty is judged.
MARGIN = 3
_AROUND = 3  # voxels more that are kept: what a head of two or three convolutions sees from within the margin


@dataclass(frozen=True, eq=False)
class OnePassCase:
    """What is known of one case, cut to the surroundings of its structures.

    Attributes:
        case: its name.
        corruption: what was done to the image.
        features: (C, *S) float16, the decoder's finest features in the mean pass.
        logits: (K, *S) float32 of the mean pass, noise integrated out, not divided by a temperature.
        labels: (*S) uint8, true classes.
        mean: (K, *S) float32, mean probability of the T samples.
        aleatoric: (*S) float32, mean entropy of the samples, nats.
        variance: (K, *S) float32, variance over the samples.
        mask: (*S) bool, voxels within three of the reference or of a prediction.
    """

    case: str
    corruption: Corruption
    features: npt.NDArray[np.float16]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    mean: npt.NDArray[np.float32]
    aleatoric: npt.NDArray[np.float32]
    variance: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MapSettings:
    """What the maps depend on besides the case.

    Attributes:
        sha256: hash of the weights.
        temperature: divides the logits of the samples.
        samples: T, 2 or more.
        seed: of samples and corruptions.
        mirrored: whether every other sample reads the image mirrored left to right.
    """

    sha256: str
    temperature: float
    samples: int = 10
    seed: int = 0
    mirrored: bool = False


def make_maps(
    network: DIANet,
    config: TrainingConfig,
    cases: Sequence[Case],
    corruptions: Sequence[Corruption],
    folder: Path,
    settings: MapSettings,
    *,
    title: str = "maps",
) -> list[Path]:
    """Make the maps of cases, or find those that are there.

    Args:
        network: in evaluation mode, on the device that is used.
        config: how cases are read.
        cases: with labels.
        corruptions: what is done to each case; as many as cases.
        folder: where they are kept.
        settings: what they depend on.
        title: for the display of progress.

    Returns:
        The files, for `read_maps`.
    """
    key = json.dumps([FORMAT_VERSION, *astuple(settings)])
    network = for_inference(network, next(network.parameters()).device)
    files = []
    for case, corruption in track(list(zip(cases, corruptions, strict=True)), title, unit="case"):
        file = folder / f"{case.name} {corruption}.npz"
        if not _is_known(file, key):
            _save(file, key, _made(network, config, case, corruption, settings))
        files.append(file)
    return files


def read_maps(file: Path) -> OnePassCase:
    """What `make_maps` wrote.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        corruption = Corruption(**json.loads(str(arrays.pop("corruption"))))
        arrays.pop("key")
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
        raise InputError(f"{file} cannot be read.", remedy="Remove it and run the command again.") from error
    name = str(arrays.pop("case"))
    floats = {key: arrays[key].astype(np.float32) for key in ("logits", "mean", "aleatoric", "variance")}
    return OnePassCase(name, corruption, **{**arrays, **floats})


def seed_of(case: str, modality: int, seed: int) -> int:
    """Seed of a corruption, of its own for every case and modality."""
    return zlib.crc32(f"{case} {modality} {seed}".encode())


@torch.inference_mode()
def _made(
    network: DIANet, config: TrainingConfig, case: Case, corruption: Corruption, settings: MapSettings
) -> OnePassCase:
    source = read_case(case, config.data)
    volumes = tuple(
        None if v is None else corrupted(v, corruption, seed_of(case.name, number, settings.seed))
        for number, v in enumerate(source.volumes)
    )
    prepared = prepare_case(replace(source, volumes=volumes), config)
    if prepared.labels is None:
        raise InputError(f"expected a case with labels to compare with, got {case.name} without.")
    x, valid, available = _window(network, prepared, config)
    encoded = network.encode(x, available, heads=["segmentation"])
    output = network.decode(encoded, None, heads=["segmentation"], keep_features=True).segmented
    plain = cropped(output, valid)
    assert plain.features is not None  # just asked for
    logits, features = plain.logits()[0], plain.features[0]
    del encoded, output  # not beside those of the samples
    maps = sample_window(
        network,
        x,
        available=available,
        samples=settings.samples,
        seed=settings.seed,
        temperature=settings.temperature,
        valid=valid,
        mirrored=settings.mirrored,
    )
    labels = prepared.labels.reshape(logits.shape[1:])
    answers = labels > 0
    for likely in (torch.softmax(logits.float(), 0), maps.mean_probability):
        answers = answers | (labels_of(likely).cpu().numpy() > 0)
    mask = dilated_mask(answers, MARGIN)
    box = _box(dilated_mask(answers, MARGIN + _AROUND))

    def cut(values: Tensor) -> npt.NDArray[np.float32]:
        rows = values.reshape(-1, *values.shape[-len(box) :]).float().cpu().numpy()
        kept = np.stack([row[box] for row in rows])
        return kept.reshape(*values.shape[: -len(box)], *kept.shape[1:])

    return OnePassCase(
        case.name,
        corruption,
        cut(features).astype(np.float16),
        cut(logits),
        np.ascontiguousarray(labels[box]),
        cut(maps.mean_probability),
        cut(maps.aleatoric),
        cut(maps.variance),
        np.ascontiguousarray(mask[box]),
    )


def _window(
    network: DIANet, case: PreparedCase, config: TrainingConfig
) -> tuple[Tensor, tuple[slice, ...], Tensor | None]:
    """The window around the middle of an image, where the image lies in it, and what is available."""
    flat = network.config.spatial_dims == 2
    shape: tuple[int, ...] = case.image.shape[1:]
    windows = usual_windows(shape, config.window_kji, divisors(network.config), flat=flat)
    if len(windows) != 1:
        raise InputError(
            f"expected cases that fit into one window of {config.window_kji} voxels (k, j, i), got"
            f" {case.name} of {shape}.",
            remedy="Cut the cases to their structures.",
        )
    device = next(network.parameters()).device
    x = windows[0].cut(torch.from_numpy(case.image)).unsqueeze(0).to(device)
    available = None if all(case.available) else torch.tensor([case.available], device=device)
    return x.squeeze(2) if flat else x, windows[0].valid[1 if flat else 0 :], available


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds a mask; all of it where nothing is in the mask."""
    if not mask.any():
        return (slice(None),) * mask.ndim
    spans = [
        np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)
    ]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)


def _save(file: Path, key: str, made: OnePassCase) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp.npz")
    halves = {
        name: getattr(made, name).astype(np.float16) for name in ("features", "mean", "aleatoric", "variance")
    }
    arrays: dict[str, Any] = {
        "key": np.array(key),
        "case": np.array(made.case),
        "corruption": np.array(json.dumps({"kind": made.corruption.kind, "level": made.corruption.level})),
        "logits": made.logits.astype(np.float16),
        "labels": made.labels,
        "mask": made.mask,
        **halves,
    }
    np.savez(temporary, **arrays)
    temporary.replace(file)


def _is_known(file: Path, key: str) -> bool:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            return str(data["key"]) == key
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # none, cut off or foreign: made again
        return False
