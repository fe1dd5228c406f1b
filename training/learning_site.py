# SPDX-License-Identifier: Apache-2.0
"""A site that a model has not seen, and a reviewer who corrects it, both for measuring learning from review.

The site is a part of a data set that the model was fitted without; where its images are too like the others
to be a site, a fixed transformation makes them another sequence. That is a simulation, and called so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from DIANetLib.acwi.corrections import write_correction
from DIANetLib.acwi.review import Region, find_regions
from DIANetLib.errors import InputError
from DIANetLib.formats.image import read_labels, read_volume, write_volume
from DIANetLib.inference.engine import Segmenter
from DIANetLib.volume import Volume
from training.config import DataConfig
from training.datasets import Case, find_cases, map_labels
from training.datasets.decathlon import image_folders
from training.finetune_cases import region_box

FloatArray = npt.NDArray[np.float64]
Reviewer = Literal["all", "regions"]


def none(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """As it is."""
    return image


def t2(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Contrast turned round as in T2, softer by 0.6 voxels, noise of 3 % of the range."""
    soft: FloatArray = ndimage.gaussian_filter(1.0 - _unit(image) ** 0.8, 0.6)
    return soft + 0.03 * rng.normal(size=image.shape)


def flair(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Fluid dark, grey matter brightest, white matter between; softer by 0.5 voxels, noise of 3 %."""
    mapped = np.interp(_unit(image), [0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.3, 0.9, 0.65, 0.5])
    soft: FloatArray = ndimage.gaussian_filter(mapped, 0.5)
    return soft + 0.03 * rng.normal(size=image.shape)


#: Simulated sequences by name.
SEQUENCES: Mapping[str, Callable[[FloatArray, np.random.Generator], FloatArray]] = {
    "none": none,
    "t2": t2,
    "flair": flair,
}


@dataclass(frozen=True)
class Division:
    """Folders of a divided data set.

    Attributes:
        old: what the model is fitted on and judged by.
        site: what it has not seen.
    """

    old: Path
    site: Path


def divide(data: Path, config: DataConfig, output: Path, *, voxels: str, sequence: str) -> Division:
    """Put the cases whose images have one voxel type into a site of their own, as another sequence.

    Args:
        data: folder of the data set.
        config: how it is laid out; of one modality.
        output: gets the folders `old` (links to the files) and `site` (images made anew, links to labels).
        voxels: numpy name of the voxel type, such as "uint8".
        sequence: one of `SEQUENCES`.

    Raises:
        InputError: no case or every case is of that type, or there is no such sequence.
    """
    if sequence not in SEQUENCES:
        raise InputError(f"There is no sequence {sequence!r}, only {', '.join(SEQUENCES)}.")
    cases = find_cases(data, config)
    images, _ = image_folders(data)
    folders = Division(output / "old", output / "site")
    if folders.old.is_dir() and folders.site.is_dir():
        return folders
    counts = {"old": 0, "site": 0}
    for number, case in enumerate(cases):
        file, labels = case.images[0], case.labels
        assert file is not None  # of that layout
        assert labels is not None
        volume = read_volume(file)
        part = folders.site if volume.array.dtype == np.dtype(voxels) else folders.old
        counts[part.name] += 1
        for name in ("images", "labels"):
            (part / name).mkdir(parents=True, exist_ok=True)
        _link(labels, part / "labels" / labels.name)
        if part is folders.old or sequence == "none":
            _link(file, part / "images" / file.name)
        else:
            made = SEQUENCES[sequence](volume.array.astype(np.float64), np.random.default_rng(number))
            write_volume(volume.with_array(made.astype(np.float32)), part / "images" / file.name)
    if not all(counts.values()):
        raise InputError(
            f"{counts['site']} of {len(cases)} images in {images} have voxels of {voxels}, expected some."
        )
    return folders


def review(
    segmenter: Segmenter,
    case: Case,
    config: DataConfig,
    parent: Path,
    *,
    reviewer: Reviewer,
    most: int,
    samples: int,
) -> Path:
    """Segment a case, correct it by its true labels, and write the package as a review in 3D Slicer does.

    Args:
        segmenter: of the model that is reviewed.
        case: with labels.
        config: how it is laid out.
        parent: folder of packages.
        reviewer: "all" corrects every voxel; "regions" what lies in the boxes of the first `most` regions of
            the worklist, and leaves the others open.
        most: see there.
        samples: stochastic passes, for the worklist.
    """
    file = case.images[0]
    assert file is not None  # of that layout
    assert case.labels is not None
    image = replace(read_volume(file), modality=config.modalities[0].name)
    prediction = segmenter.segment([image], samples=samples)
    labels = read_labels(case.labels)
    true = labels.with_array(map_labels(labels.array, config)).array
    regions = find_regions(prediction.error_probability, prediction.labels, prediction.structures)
    after, judged = corrected(prediction.labels, true, regions, None if reviewer == "all" else most)
    return write_correction(
        parent,
        before=prediction.labels,
        after=after,
        structures=prediction.structures,
        regions=judged,
        images=[image],
        model=prediction.model,
        reviewer=f"simulated ({reviewer})",
        started="2026-01-31T09:00:00+00:00",
        finished="2026-01-31T09:05:00+00:00",
        comment="Simulated from reference labels.",
    )


def corrected(
    before: Volume, true: npt.NDArray[np.uint8], regions: Sequence[Region], most: int | None
) -> tuple[Volume, tuple[Region, ...]]:
    """Labels after a review by the true ones, and the regions with their states.

    Args:
        before: the model's labels.
        true: (k, j, i), the true ones.
        regions: the worklist.
        most: regions that are looked at, in their order; None corrects every voxel.
    """
    after = true.copy() if most is None else before.array.copy()
    judged = []
    for number, region in enumerate(regions):
        box = region_box(region, before.geometry)
        if most is not None and number >= most:
            judged.append(region)
            continue
        after[box] = true[box]
        changed = bool((after[box] != before.array[box]).any())
        judged.append(replace(region, state="corrected" if changed else "accepted"))
    return before.with_array(after.astype(before.array.dtype)), tuple(judged)


def _unit(image: FloatArray) -> FloatArray:
    low, high = np.percentile(image, (0.5, 99.5))
    return np.clip((image - low) / max(high - low, 1e-12), 0.0, 1.0)


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        os.symlink(source.resolve(), target)
