# SPDX-License-Identifier: Apache-2.0
"""The folder a run leaves behind: every map on the input's grid, the numbers, and a report to read.

The folder appears under its name only when it is complete: everything is written to a hidden folder beside
it, which is then renamed; on any failure it is removed. Maps are gzip-compressed NRRD files of float32 with a
float64 grid. The compression level is the writer's fast default: a map of a 1 mm head (8.5 million voxels)
takes 0.06 s to compress if it is mostly zero, 0.5 s if it is dense; the highest level costs half as much
again and saves nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from DIANetLib.acwi.review import Region, find_regions, regions_to_csv, regions_to_json
from DIANetLib.errors import DIANetError, InputError, OutputError
from DIANetLib.formats.image import write_volume
from DIANetLib.formats.report import render_report
from DIANetLib.formats.result import RESULT_FORMAT, result_record
from DIANetLib.formats.segmentation import write_segmentation
from DIANetLib.inference.prediction import UNCERTAINTY_KINDS, Prediction
from DIANetLib.volume import Volume

__all__ = ["OutputPaths", "check_output_directory", "write_output"]

# Far below what samples can tell apart; without it the tail of a softmax fills 30 MB per map of a head.
_NEGLIGIBLE = 1e-6
_RESULT = "result.json"


@dataclass(frozen=True)
class OutputPaths:
    """Where everything of an output folder is.

    Attributes:
        directory: The folder.
        segmentation: Segments with names, colours and terminology, as 3D Slicer reads them.
        labels: The labelmap, NIfTI.
        uncertainty: Map by kind: total, aleatoric, epistemic; nats.
        error_probability: Calibrated probability that the label is wrong; regions are found in it.
        variance: Map by structure key.
        gradcam: Map by structure key, where asked for.
        regions_json: Low-confidence regions.
        regions_csv: The same as a table.
        result: Model, inputs, timings and numbers per structure.
        report: The report to read.
    """

    directory: Path
    segmentation: Path
    labels: Path
    uncertainty: Mapping[str, Path]
    error_probability: Path
    variance: Mapping[str, Path]
    gradcam: Mapping[str, Path]
    regions_json: Path
    regions_csv: Path
    result: Path
    report: Path


def write_output(
    prediction: Prediction,
    gradcam: Mapping[str, Volume],
    inputs: Sequence[Volume],
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    regions: Sequence[Region] | None = None,
) -> OutputPaths:
    """Write an output folder; it appears only when it is complete.

    Args:
        prediction: What was computed.
        gradcam: Grad-CAM maps by structure key, 0 to 1, on the prediction's grid; may be empty.
        inputs: The images in the order of the model's modalities; the first is on the prediction's grid.
        directory: The folder to make. Missing parents are made too.
        overwrite: Replace an earlier output folder of DIANet.
        regions: Low-confidence regions; looked for with the default options when None.

    Returns:
        Where everything is.

    Raises:
        InputError: A Grad-CAM map is of no structure, or it or the first input is on another grid.
        OutputError: The folder exists and may not be replaced, cannot be written, or the disk is full.
            Nothing is left behind then, and a folder that was there is as it was.
    """
    _check_maps(prediction, gradcam, inputs)
    target = Path(directory).resolve()
    check_output_directory(target, overwrite=overwrite)
    if regions is None:
        regions = find_regions(prediction.error_probability, prediction.labels, prediction.structures)
    one_map = prediction.labels.array.size * np.dtype(np.float32).itemsize
    with _sentences(target), _staging(target) as folder, _full_disk_noticed(folder, one_map):
        _write_files(folder, prediction, gradcam, inputs, regions)
        _put_in_place(folder, target)
    return _paths(target, prediction, gradcam)


def check_output_directory(directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise if an output folder could not be written there; to be asked before a long computation.

    Args:
        directory: The folder wanted. An empty folder that exists is fine.
        overwrite: Whether an earlier output folder of DIANet may be replaced. One that holds any other file
            is never replaced.

    Raises:
        OutputError: With the reason and the way out.
    """
    target = Path(directory).resolve()
    another = "Choose another folder with --output."
    try:
        if target.exists() and not target.is_dir():
            raise OutputError(
                f"The output folder {target} cannot be made: a file has that name.", remedy=another
            )
        if target.is_dir() and any(target.iterdir()):
            ours = _own_files(target)
            if not overwrite:
                remedy = f"{another[:-1]}, or replace it with --overwrite." if ours else another
                raise OutputError(f"The output folder {target} exists already.", remedy=remedy)
            if not ours:
                raise OutputError(
                    f"The folder {target} is not replaced: it is not an output folder of DIANet"
                    f" (no {_RESULT} of DIANet in it).",
                    remedy=another,
                )
            foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in ours)
            if foreign:
                more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
                raise OutputError(
                    f"The output folder {target} is not replaced: it also holds files that DIANet"
                    f" did not write ({', '.join(foreign[:3])}{more}).",
                    remedy="Move them away, or choose another folder with --output.",
                )
        parent = next(p for p in target.parents if p.exists())
        if not parent.is_dir():
            raise OutputError(
                f"The output folder {target} cannot be made: {parent} is a file.", remedy=another
            )
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(
                f"The output folder {target} cannot be made: no permission to write to {parent}.",
                remedy=another,
            )
    except OSError as error:
        raise OutputError(
            f"The output folder {target} cannot be looked at: {error.strerror or error}.", remedy=another
        ) from error


def _check_maps(prediction: Prediction, gradcam: Mapping[str, Volume], inputs: Sequence[Volume]) -> None:
    keys = [structure.key for structure in prediction.structures]
    for key, volume in gradcam.items():
        if key not in keys:
            raise InputError(
                f"A Grad-CAM map is for '{key}', expected one of the structures {', '.join(keys)}."
            )
        if not volume.geometry.same_grid(prediction.geometry):
            raise InputError(f"The Grad-CAM map of '{key}' is not on the grid of the segmentation.")
    if not inputs:
        raise InputError("An output folder needs at least one input image, got none.")
    if not inputs[0].geometry.same_grid(prediction.geometry):
        raise InputError(
            f"The first input ({inputs[0].name or 'image'}) is not on the grid of the segmentation."
        )


def _paths(folder: Path, prediction: Prediction, gradcam: Mapping[str, Volume]) -> OutputPaths:
    keys = [structure.key for structure in prediction.structures]
    return OutputPaths(
        directory=folder,
        segmentation=folder / "segmentation.seg.nrrd",
        labels=folder / "labels.nii.gz",
        uncertainty={kind: folder / f"uncertainty_{kind}.nrrd" for kind in UNCERTAINTY_KINDS},
        error_probability=folder / "error_probability.nrrd",
        variance={key: folder / f"variance_{key}.nrrd" for key in keys},
        gradcam={key: folder / f"gradcam_{key}.nrrd" for key in keys if key in gradcam},
        regions_json=folder / "regions.json",
        regions_csv=folder / "regions.csv",
        result=folder / _RESULT,
        report=folder / "report.html",
    )


def _write_files(
    folder: Path,
    prediction: Prediction,
    gradcam: Mapping[str, Volume],
    inputs: Sequence[Volume],
    regions: Sequence[Region],
) -> None:
    paths = _paths(folder, prediction, gradcam)
    started = time.perf_counter()
    name = inputs[0].name or "image"
    labels = prediction.labels
    write_segmentation(paths.segmentation, labels, prediction.structures, source_name=name)
    wide = any(structure.value > 255 for structure in prediction.structures)
    _check_complete(paths.segmentation, labels.array.size * (2 if wide else 1))
    write_volume(labels, paths.labels)
    for kind, path in paths.uncertainty.items():
        _write_map(prediction.uncertainty[kind], path)
    _write_map(prediction.error_probability, paths.error_probability)
    for key, path in paths.variance.items():
        _write_map(prediction.variance[key], path)
    for key, path in paths.gradcam.items():
        _write_map(gradcam[key], path)
    paths.regions_json.write_text(regions_to_json(regions), encoding="utf-8")
    paths.regions_csv.write_text(regions_to_csv(regions), encoding="utf-8", newline="")
    timed = replace(prediction, timings={**prediction.timings, "write": time.perf_counter() - started})
    paths.report.write_text(render_report(timed, gradcam, inputs, regions), encoding="utf-8")
    record = result_record(timed, inputs, low_confidence_regions=len(regions), files=_file_names(paths))
    paths.result.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_map(volume: Volume, path: Path) -> None:
    array = volume.array.astype(np.float32)
    array[np.abs(array) < _NEGLIGIBLE] = 0.0
    write_volume(volume.with_array(array, name=path.stem), path)
    _check_complete(path, array.nbytes)


def _check_complete(path: Path, raw_bytes: int) -> None:
    """Raise if a compressed NRRD lacks its end: ITK is silent if the disk fills up as it closes the file."""
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        length = int.from_bytes(stream.read(4), "little")  # of the raw data, modulo 2^32, as gzip notes it
    if length != raw_bytes % 2**32:
        raise OutputError(f"{path.name} was not written completely.")


def _file_names(paths: OutputPaths) -> dict[str, Any]:
    """Names of the folder's files, by what they hold; `_own_files` reads them back."""
    names: dict[str, Any] = {}
    for what, value in vars(paths).items():
        if isinstance(value, Mapping):
            names[what] = {key: path.name for key, path in value.items()}
        elif what != "directory":
            names[what] = value.name
    return names


def _own_files(folder: Path) -> set[str]:
    """Names of the files that DIANet wrote to a folder, by its result.json; empty if it has none of ours."""
    try:
        record = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if not isinstance(record, dict) or record.get("format") != RESULT_FORMAT:
        return set()
    names = {_RESULT}
    files = record.get("files")
    for value in files.values() if isinstance(files, dict) else ():
        names.update(str(v) for v in (value.values() if isinstance(value, dict) else (value,)))
    return names


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, gone afterwards unless it was renamed; so are parents made for it."""
    made: list[Path] = []
    folder = None
    try:
        for parent in reversed([p for p in target.parents if not p.exists()]):
            parent.mkdir()
            made.append(parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        # mkdtemp makes folders for their owner alone; a result should have the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        folder.chmod(0o777 & ~mask)
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in reversed(made):
            with contextlib.suppress(OSError):  # not empty: the result is in it
                parent.rmdir()


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename the complete folder to its name; what is there (checked before) goes, or comes back."""
    if not target.exists():
        folder.rename(target)
        return
    own = _own_files(target)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.previous-", dir=target.parent))
    aside.rmdir()
    target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        aside.rename(target)
        raise
    # The new folder stands; failing to clear the old one away is no reason to say that it does not. Foreign
    # files that came in since the check stay in the folder set aside.
    with contextlib.suppress(OSError):
        for entry in aside.iterdir():
            if entry.name in own:
                entry.unlink()
        aside.rmdir()


@contextlib.contextmanager
def _sentences(target: Path) -> Iterator[None]:
    """Turn failures of writing into one sentence about the output folder."""
    try:
        yield
    except (OSError, OutputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            reason, remedy = "the disk is full", "Make room on it, or choose another disk with --output."
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason, remedy = "it may not be written to", "Choose another folder with --output."
        else:
            reason = (cause.strerror if isinstance(cause, OSError) else None) or (
                error.message if isinstance(error, DIANetError) else str(error)
            )
            remedy = "Nothing was left behind; choose another folder with --output, or try again."
        raise OutputError(
            f"The results could not be written to {target}: {reason.rstrip('.')}.", remedy=remedy
        ) from error


@contextlib.contextmanager
def _full_disk_noticed(folder: Path, largest_file: int) -> Iterator[None]:
    """Raise ENOSPC where a writer failed for no stated reason and the disk cannot hold its largest file.

    SimpleITK's writers say that writing failed, but not why.
    """
    try:
        yield
    except OutputError as error:
        unexplained = not isinstance(error.__cause__, OSError) or error.__cause__.errno is None
        if unexplained and shutil.disk_usage(folder).free < largest_file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
