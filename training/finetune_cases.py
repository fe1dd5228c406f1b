# SPDX-License-Identifier: Apache-2.0
"""Corrected cases as a fit reads them: images found again, labels as the model's classes, a level per voxel.

What a correction says of a voxel differs: the reviewer changed it, looked at it and left it, never looked at
it, or said that it could not be told. The level tells which; `training.finetune_config` says what it weighs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.corrections import Correction, ImageRef, check_image
from DIANetLib.acwi.review import Region
from DIANetLib.bundle import LoadedModel
from DIANetLib.errors import InputError
from DIANetLib.formats.image import read_volume
from DIANetLib.inference.cascade import is_crop
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.structures import Structure
from DIANetLib.volume import Geometry, Volume
from training.config import TrainingConfig
from training.datasets import PreparedCase, SourceCase, labels_on_grid, prepare_case
from training.finetune_reviewers import Chosen

LevelArray = npt.NDArray[np.uint8]

_SIDES = ("left", "right")
_MARGIN_MM = 10.0  # around a structure, where the localiser names none


class Level(IntEnum):
    """What a correction says of a voxel."""

    ELSEWHERE = 0
    CHANGED = 1
    JUDGED = 2
    OPEN = 3


@dataclass(frozen=True, eq=False)
class CorrectedCase:
    """A corrected case on the network's grid.

    Attributes:
        case: image and labels after the correction.
        levels: (k, j, i), a `Level` per voxel.
        group: hash of the image: two sides of one head are never divided.
        correction: id of the package.
        reviewer: who corrected it.
        made_with: the model whose labels were corrected.
    """

    case: PreparedCase
    levels: LevelArray
    group: str
    correction: str
    reviewer: str
    made_with: ModelRef | None = None

    @property
    def reviewed(self) -> npt.NDArray[np.bool_]:
        """(k, j, i), what a person judged; all of a case whose correction lists no region."""
        seen = np.isin(self.levels, (Level.CHANGED, Level.JUDGED))
        whole = not np.isin(self.levels, (Level.JUDGED, Level.OPEN)).any()
        return np.ones_like(seen) if whole else seen

    def encoded(self, classes: int) -> PreparedCase:
        """The case with class + classes x level for labels, which augmentation moves as one."""
        assert self.case.labels is not None  # made with labels
        wide = self.case.labels.astype(np.uint16) + classes * self.levels.astype(np.uint16)
        return replace(self.case, labels=wide)  # more values than a byte holds


def load_case_of(
    chosen: Chosen, model: LoadedModel, config: TrainingConfig, images: Path | None = None
) -> list[CorrectedCase]:
    """The cases that a correction makes: one, or one per side where a localiser found the structures.

    Args:
        chosen: what was corrected.
        model: what is to learn from it.
        config: how the model reads images.
        images: folder where images are looked for whose file is neither in the package nor where it was.

    Raises:
        InputError: an image is missing or another one, or the structures are not the model's.
    """
    correction = chosen.correction
    values = class_values(correction, model)
    volumes = modality_volumes(correction, model, images)
    classes = np.zeros(correction.after.array.shape, np.uint8)
    for value, number in values.items():
        classes[correction.after.array == value] = number
    levels = voxel_levels(correction, chosen.disputed)
    count = len(model.structures) + 1
    both = correction.after.with_array((classes + count * levels.astype(np.uint16)).astype(np.uint16))
    name = correction.images[0].name or correction.id
    found = []
    for side, box in _parts(correction, model):
        source = SourceCase(
            f"{name}_{side}" if side else name,
            tuple(None if v is None else _cropped(v, correction.before.geometry, box) for v in volumes),
        )
        prepared = prepare_case(source, config)
        assert prepared.prepared is not None  # it comes from images
        part = both if box is None else _cut(both, box)
        encoded = _on_grid(part, prepared)
        case = replace(prepared, labels=(encoded % count).astype(np.uint8))
        level = (encoded // count).astype(np.uint8)
        group = correction.images[0].voxels_sha256
        who = (correction.reviewer, correction.model)
        found.append(CorrectedCase(case, level, group, correction.id, *who))
    return found


def class_values(correction: Correction, model: LoadedModel) -> dict[int, int]:
    """The class number of each label value of a correction.

    Structures go by their keys; a side in the correction's stands for a structure that the model reads on
    both.

    Raises:
        InputError: a structure of either is not there in the other.
    """
    numbers = {structure.key: structure.value for structure in model.structures}
    values: dict[int, int] = {}
    for structure in correction.structures:
        key = structure.key if structure.key in numbers else _without_side(structure)[0]
        if key in numbers:
            values[structure.value] = numbers[key]
    theirs = ", ".join(structure.key for structure in correction.structures)
    if len(values) < len(correction.structures) or set(values.values()) != set(numbers.values()):
        raise InputError(
            f"The correction {correction.directory or correction.id} is of other structures ({theirs}; made"
            f" with the model {correction.model.name!r}) than those of the model {model.name!r}"
            f" ({', '.join(numbers)}).",
            remedy="Give corrections of this model's structures, or the model that they were made with.",
        )
    return values


def voxel_levels(correction: Correction, disputed: npt.NDArray[np.bool_] | None = None) -> LevelArray:
    """(k, j, i), a `Level` per voxel of a correction.

    A change outweighs a region, a judged region an open one, and what reviewers dispute is open.
    """
    levels = np.full(correction.before.array.shape, Level.ELSEWHERE, np.uint8)
    for judged, level in ((False, Level.OPEN), (True, Level.JUDGED)):
        for region in correction.regions:
            if (region.state in ("accepted", "corrected")) == judged:
                levels[region_box(region, correction.before.geometry)] = level
    levels[correction.changed] = Level.CHANGED
    if disputed is not None:
        levels[disputed] = Level.OPEN
    return levels


def region_box(region: Region, geometry: Geometry) -> tuple[slice, slice, slice]:
    """The voxels (k, j, i) whose centres lie in the box of a region, to a tenth of a voxel."""
    corners = [[(region.lo, region.hi)[n >> axis & 1][axis] for axis in range(3)] for n in range(8)]
    index = geometry.world_to_index(corners)
    low = np.ceil(index.min(axis=0) - 0.1).astype(int)
    high = np.floor(index.max(axis=0) + 0.1).astype(int) + 1
    i, j, k = (slice(max(0, int(a)), max(0, int(b))) for a, b in zip(low, high, strict=True))
    return k, j, i


def modality_volumes(
    correction: Correction, model: LoadedModel, images: Path | None = None
) -> tuple[Volume | None, ...]:
    """The image of each of the model's modalities, None where one that it does not need is missing.

    Raises:
        InputError: an image is not found, is another one, or is of no modality of the model.
    """
    specs = model.modalities
    refs = list(zip(correction.images, correction.copies, strict=True))
    named = all(any(spec.matches(ref.modality) for spec in specs) for ref, _ in refs if ref.modality)
    if len(specs) > 1 and named and all(ref.modality for ref, _ in refs):
        places = [next((p for p in refs if spec.matches(p[0].modality)), None) for spec in specs]
    else:
        places = [*refs, *[None] * (len(specs) - len(refs))]
    missing = [s.name for s, p in zip(specs, places, strict=False) if p is None and s.required]
    if missing or len(places) != len(specs):
        theirs = ", ".join(ref.modality or ref.name for ref, _ in refs)
        raise InputError(
            f"The correction {correction.directory or correction.id} is of {len(refs)} images ({theirs}), but"
            f" the model {model.name!r} reads {', '.join(spec.name for spec in specs)}."
        )
    return tuple(
        None if place is None else _image(correction, *place, images, spec.name)
        for place, spec in zip(places, specs, strict=True)
    )


def _image(
    correction: Correction, ref: ImageRef, copy: Path | None, images: Path | None, modality: str
) -> Volume:
    if copy is not None:  # its hash was compared when the package was read
        return replace(read_volume(copy, modality=modality), name=ref.name)
    places = [Path(ref.source)] if ref.source else []
    if images is not None:
        name = Path(ref.source).name if ref.source else ref.name
        places += sorted(path for path in images.rglob("*") if name and path.name == name)
    there = [place for place in places if place.exists()]
    if not there:
        looked = ", ".join(map(str, places)) or "no path is noted"
        raise InputError(
            f"The image {ref.name or ref.sha256[:12]} of the correction"
            f" {correction.directory or correction.id} is not found ({looked}).",
            remedy="Give the folder of the images with --images, or keep copies in the corrections"
            " (--copy-images).",
        )
    problem: InputError | None = None
    for place in there:
        volume = read_volume(place)
        try:
            check_image(correction, volume)
        except InputError as error:
            problem = problem or error
        else:
            return replace(volume, modality=modality)
    assert problem is not None  # each place had one
    raise problem


def _parts(correction: Correction, model: LoadedModel) -> list[tuple[str, tuple[slice, slice, slice] | None]]:
    """Sides and the boxes (k, j, i) to read there; one whole image where the model reads it whole."""
    keys = {structure.key for structure in model.structures}
    by_side: dict[str, list[int]] = {}
    for structure in correction.structures:
        if structure.key not in keys:
            by_side.setdefault(_without_side(structure)[1], []).append(structure.value)
    if not by_side:
        if model.localiser is None or is_crop(correction.before.geometry):
            return [("", None)]
        by_side[""] = [structure.value for structure in correction.structures]
    margin = model.localiser.margin_mm if model.localiser is not None else _MARGIN_MM
    spacing = correction.before.geometry.spacing[::-1]
    parts: list[tuple[str, tuple[slice, slice, slice] | None]] = []
    for side, values in sorted(by_side.items()):
        mask = np.isin(correction.before.array, values) | np.isin(correction.after.array, values)
        where = np.argwhere(mask)
        if not len(where):
            continue
        grow = [int(np.ceil(margin / s)) for s in spacing]
        k, j, i = (
            slice(max(0, int(a) - g), min(n, int(b) + g + 1))
            for a, b, g, n in zip(where.min(0), where.max(0), grow, mask.shape, strict=True)
        )
        parts.append((side, (k, j, i)))
    if not parts:
        raise InputError(f"The correction {correction.directory or correction.id} has no labelled voxel.")
    return parts


def _without_side(structure: Structure) -> tuple[str, str]:
    for side in _SIDES:
        if structure.key.endswith(f"_{side}"):
            return structure.key.removesuffix(f"_{side}"), side
    return structure.key, ""


def _cropped(volume: Volume, grid: Geometry, box: tuple[slice, slice, slice] | None) -> Volume:
    """The part of a volume in a box of the labels' grid; all of it where it lies on another one."""
    if box is None or not volume.geometry.same_grid(grid, 1e-3):
        return volume
    return _cut(volume, box)


def _cut(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    k, j, i = box
    size = [s.stop - s.start for s in (i, j, k)]
    part = volume.geometry.crop([s.start for s in (i, j, k)], size)
    return replace(volume, array=np.ascontiguousarray(volume.array[box]), geometry=part)


def _on_grid(labels: Volume, case: PreparedCase) -> npt.NDArray[np.uint16]:
    assert case.prepared is not None
    low = labels_on_grid(labels.with_array((labels.array & 255).astype(np.uint8)), case.prepared)
    high = labels_on_grid(labels.with_array((labels.array >> 8).astype(np.uint8)), case.prepared)
    joined: npt.NDArray[np.uint16] = low.astype(np.uint16) + np.uint16(256) * high.astype(np.uint16)
    return joined


def by_group(cases: Sequence[CorrectedCase]) -> Mapping[str, list[CorrectedCase]]:
    """Cases of each image, in the order of the first of them."""
    groups: dict[str, list[CorrectedCase]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    return groups
