# SPDX-License-Identifier: Apache-2.0
"""Comparing an output folder with a reference labelmap: the job behind `dianet evaluate`.

Dice, HD95 and NSD at 1 mm per structure; ECE, error AUROC and AURC of the folder's uncertainty over the
voxels within three of either segmentation (`DIANetLib.acwi.metrics` says how each is defined).
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from DIANetLib.errors import InputError, OutputError

if TYPE_CHECKING:
    from DIANetLib.structures import Structure
    from DIANetLib.volume import Volume

__all__ = ["Evaluation", "Score", "evaluate", "parse_mapping"]

_TOLERANCE_MM = 1.0
_MARGIN_VOXELS = 3
# Headers of NIfTI hold float32.
_SAME_GRID_MM = 0.01
_ERROR_MAP = "error_probability.nrrd"
_RESULT = "result.json"
_TOTAL_MAP = "uncertainty_total.nrrd"


@dataclass(frozen=True)
class Score:
    """How well one structure was segmented.

    Attributes:
        structure: Key, or several joined by `+`.
        reference: Values of the reference that stand for it, joined by `+`.
        dice: 0 to 1.
        hd95_mm: 95th percentile of the surface distance, mm.
        nsd: Normalised surface Dice at 1 mm, 0 to 1.
        volume_ml: Segmented volume, ml.
        reference_ml: Volume in the reference, ml.
    """

    structure: str
    reference: str
    dice: float
    hd95_mm: float
    nsd: float
    volume_ml: float
    reference_ml: float


@dataclass(frozen=True)
class Evaluation:
    """How well an output folder agrees with a reference.

    Attributes:
        scores: Per structure.
        mean_dice: Mean over the structures.
        mean_hd95_mm: Mean over the structures, mm.
        mean_nsd: Mean over the structures.
        uncertainty: Map that the next figures judge.
        error_auroc: How well it ranks wrong voxels above right ones; NaN without errors.
        aurc: Area under the risk-coverage curve.
        normalised_aurc: The same, 0 for the best ordering of these errors, 1 for a random one.
        ece: Expected calibration error; NaN where the folder has no error probability.
        voxels: Voxels judged: within three of a structure in either segmentation.
    """

    scores: tuple[Score, ...]
    mean_dice: float
    mean_hd95_mm: float
    mean_nsd: float
    uncertainty: str
    error_auroc: float
    aurc: float
    normalised_aurc: float
    ece: float
    voxels: int


Pairs = Sequence[tuple[tuple[int, ...], tuple[str, ...]]]


def evaluate(
    directory: Path, reference: Path, *, mapping: Mapping[int, tuple[str, ...]] | None = None
) -> Evaluation:
    """Compare an output folder with a reference, and write `evaluation.json` and `evaluation.csv` into it.

    Args:
        directory: An output folder.
        reference: A labelmap on the same grid, or a `.seg.nrrd`.
        mapping: Per value of the reference the keys of the structures that it stands for; by equal values
            (for a `.seg.nrrd` by equal keys) when None. Values mapped to nothing are background.

    Raises:
        InputError: A file is missing or unusable, the grids differ, or the values don't fit.
        OutputError: The results could not be written.
    """
    labels, structures = _segmentation(directory)
    true, named = _reference(reference)
    if not true.geometry.same_grid(labels.geometry, tolerance=_SAME_GRID_MM):
        ours, theirs = labels.geometry, true.geometry
        raise InputError(
            f"The reference {reference} is on another grid than {directory}: {_grid(theirs)}, expected"
            f" {_grid(ours)}.",
            remedy="Give the reference on the grid of the image that was segmented.",
        )
    pairs = _pairs(true.array, structures, named, mapping)
    result = _compare(directory, labels, structures, true.array, pairs)
    _write(directory, reference, result)
    return result


def parse_mapping(texts: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Read `--map` arguments such as `1=hippocampus_anterior` or `3=a+b,4=c`.

    Raises:
        InputError: A text has another form or names a value twice.
    """
    mapping: dict[int, tuple[str, ...]] = {}
    for entry in (entry for text in texts for entry in text.split(",")):
        value, equals, keys = entry.partition("=")
        names = tuple(key.strip() for key in keys.split("+"))
        if not equals or not value.strip().isdigit() or not all(names):
            raise InputError(f"The mapping {entry!r} is not of the form VALUE=STRUCTURE[+STRUCTURE...].")
        if int(value) in mapping:
            raise InputError(f"The reference's value {int(value)} is mapped twice.")
        mapping[int(value)] = names
    return mapping


def _segmentation(directory: Path) -> tuple[Volume, tuple[Structure, ...]]:
    from DIANetLib.formats.segmentation import read_segmentation

    file = directory / "segmentation.seg.nrrd"
    if not directory.is_dir() or not file.is_file():
        raise InputError(
            f"{directory} is not an output folder: {file.name} is missing.",
            remedy="Give a folder that `dianet segment` wrote.",
        )
    return read_segmentation(file)


def _reference(path: Path) -> tuple[Volume, tuple[Structure, ...]]:
    from DIANetLib.formats.image import read_labels
    from DIANetLib.formats.segmentation import read_segmentation

    if path.name.lower().endswith(".seg.nrrd"):
        return read_segmentation(path)
    return read_labels(path), ()


def _grid(geometry: Any) -> str:
    size, spacing, origin = (
        " × ".join(f"{v:g}" for v in values) for values in (geometry.size, geometry.spacing, geometry.origin)
    )
    return f"{size} voxels of {spacing} mm from {origin} mm {geometry.anatomical_axes}"


def _pairs(
    true: npt.NDArray[Any],
    structures: Sequence[Structure],
    named: Sequence[Structure],
    mapping: Mapping[int, tuple[str, ...]] | None,
) -> Pairs:
    """Which values of the reference stand for which structures."""
    keys = [structure.key for structure in structures]
    listing = ", ".join(f"{structure.value} {structure.key}" for structure in structures)
    if mapping is None:
        names = {structure.value: structure.key for structure in named}
        values = {structure.value: structure.key for structure in structures}
        by_name = bool(names) and set(names.values()) <= set(keys)
        mapping = {value: (key,) for value, key in (names if by_name else values).items()}
        unknown = [int(value) for value in np.unique(true) if value and int(value) not in mapping]
        if unknown:
            raise InputError(
                f"The reference has the values {', '.join(map(str, unknown))}, which are no structures here:"
                f" {listing}.",
                remedy="Say what its values stand for with --map VALUE=STRUCTURE[+STRUCTURE...].",
            )
    merged: dict[tuple[str, ...], list[int]] = {}
    for value, wanted in mapping.items():
        chosen = []
        for name in wanted:
            matching = [key for key in keys if key in (name, f"{name}_left", f"{name}_right")]
            if not matching:
                raise InputError(f"There is no structure {name!r} to map to; there are {', '.join(keys)}.")
            chosen += matching
        merged.setdefault(tuple(sorted(set(chosen), key=keys.index)), []).append(value)
    taken = [key for group in merged for key in group]
    twice = sorted({key for key in taken if taken.count(key) > 1})
    if twice:
        raise InputError(f"The structure {twice[0]!r} is mapped to in different combinations; expected one.")
    return [(tuple(values), group) for group, values in merged.items()]


def _compare(
    directory: Path,
    labels: Volume,
    structures: Sequence[Structure],
    true: npt.NDArray[Any],
    pairs: Pairs,
) -> Evaluation:
    from DIANetLib.acwi import calibration, metrics

    values = {structure.key: structure.value for structure in structures}
    spacing, ml = labels.geometry.spacing, labels.geometry.voxel_volume_ml
    # One number per row of the table on both sides, so that merged structures are not errors.
    ours, theirs = np.zeros(true.shape, np.uint16), np.zeros(true.shape, np.uint16)
    scores = []
    for number, (reference, keys) in enumerate(pairs, start=1):
        found = np.isin(labels.array, [values[key] for key in keys])
        wanted = np.isin(true, reference)
        ours[found], theirs[wanted] = number, number
        scores.append(
            Score(
                structure="+".join(keys),
                reference="+".join(map(str, reference)),
                dice=metrics.dice(found, wanted),
                hd95_mm=metrics.hd95(found, wanted, spacing),
                nsd=metrics.nsd(found, wanted, spacing, _TOLERANCE_MM),
                volume_ml=float(found.sum()) * ml,
                reference_ml=float(wanted.sum()) * ml,
            )
        )
    mask = metrics.dilated_mask((ours > 0) | (theirs > 0), _MARGIN_VOXELS)
    wrong = ours != theirs
    name, uncertainty = _uncertainty(directory, labels)
    judged = (uncertainty, wrong, mask)
    ece = math.nan
    if name == _ERROR_MAP:
        ece = calibration.expected_calibration_error(1.0 - uncertainty, ~wrong, mask=mask)
    return Evaluation(
        scores=tuple(scores),
        mean_dice=float(np.mean([score.dice for score in scores])),
        mean_hd95_mm=float(np.mean([score.hd95_mm for score in scores])),
        mean_nsd=float(np.mean([score.nsd for score in scores])),
        uncertainty=name,
        error_auroc=metrics.error_auroc(*judged),
        aurc=metrics.aurc(*judged),
        normalised_aurc=metrics.normalised_aurc(*judged),
        ece=ece,
        voxels=int(mask.sum()),
    )


def _uncertainty(directory: Path, labels: Volume) -> tuple[str, npt.NDArray[Any]]:
    """The calibrated error probability where the folder has it, else the entropy."""
    import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)

    from DIANetLib.formats.itk import quiet_itk

    name = _ERROR_MAP if (directory / _ERROR_MAP).is_file() else _TOTAL_MAP
    try:
        with quiet_itk():  # not read_volume: a map may be constant
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(directory / name)))
    except RuntimeError as error:
        raise InputError(
            f"{directory / name} is missing or cannot be read.", remedy="Segment the image again."
        ) from error
    if array.shape != labels.array.shape or not np.isfinite(array).all():
        raise InputError(f"{directory / name} is damaged, or not on the grid of the segmentation beside it.")
    return name, array


def _write(directory: Path, reference: Path, result: Evaluation) -> None:
    record = {
        "format": "dianet-evaluation",
        "format_version": 1,
        "reference": str(reference),
        "tolerance_mm": _TOLERANCE_MM,
        "margin_voxels": _MARGIN_VOXELS,
        **{key: None if _is_nan(value) else value for key, value in asdict(result).items()},
    }
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field.name for field in fields(Score)])
    writer.writerows(asdict(score).values() for score in result.scores)
    texts = {"evaluation.json": _json(record), "evaluation.csv": stream.getvalue()}
    try:
        noted = json.loads((directory / _RESULT).read_text(encoding="utf-8"))
        noted["files"]["evaluation"] = {Path(name).suffix[1:]: name for name in texts}
        texts[_RESULT] = _json(noted)
    except (OSError, ValueError, TypeError, KeyError):
        pass  # the folder's own list of files serves `--overwrite` alone
    for name, content in texts.items():
        temporary = directory / f".{name}.{os.getpid()}"
        try:
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(directory / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"Cannot write {directory / name}: {error.strerror}.") from error


def _json(record: Any) -> str:
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
