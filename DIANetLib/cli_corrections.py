# SPDX-License-Identifier: Apache-2.0
"""The commands around corrections: `dianet correct` and `dianet corrections`."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from DIANetLib.console import table
from DIANetLib.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from DIANetLib.structures import Structure
    from DIANetLib.volume import Volume

__all__ = ["add_correct", "add_corrections"]


def add_correct(parser: argparse.ArgumentParser) -> None:
    """The arguments of `dianet correct`."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="an output folder of `dianet segment`")
    parser.add_argument(
        "--after",
        required=True,
        type=Path,
        metavar="LABELS",
        help="the corrected segmentation, from any tool: .seg.nrrd, or a labelmap with the same values"
        " (.nii.gz, .nrrd), on the same grid",
    )
    parser.add_argument("--reviewer", required=True, metavar="NAME", help="who corrected it")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="PARENT", help="folder that the package goes into"
    )
    parser.add_argument("--comment", default="", metavar="TEXT", help="words to keep with it")
    parser.add_argument(
        "--copy-images", action="store_true", help="keep copies of the images, not only where they are"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="the images that were segmented, in their order; default: where they were then",
    )
    parser.set_defaults(run=_correct)


def add_corrections(parser: argparse.ArgumentParser) -> None:
    """The arguments of `dianet corrections`."""
    parser.add_argument("parent", type=Path, metavar="PARENT", help="folder of packages, or a package")
    parser.set_defaults(run=_corrections)


def _correct(options: argparse.Namespace) -> int:
    import numpy as np

    from DIANetLib.acwi.corrections import read_correction, write_correction
    from DIANetLib.acwi.review import regions_from_json
    from DIANetLib.formats.segmentation import read_segmentation
    from DIANetLib.inference.prediction import ModelRef

    folder: Path = options.directory
    record = _result(folder)
    before, structures = read_segmentation(folder / "segmentation.seg.nrrd")
    images = _images(folder, record, options.images)
    after = _on_grid_of(_after(options.after, structures), before)
    regions = regions_from_json(_text(folder / "regions.json"))
    if all(region.state == "open" for region in regions):
        regions = ()  # the worklist was not used: the segmentation was edited as a whole
    model = record["model"]
    package = write_correction(
        options.output,
        before=before,
        after=after,
        structures=structures,
        regions=regions,
        images=images,
        model=ModelRef(str(model["name"]), str(model["version"]), str(model["sha256"])),
        reviewer=options.reviewer,
        started=_began(record, options.after),
        comment=options.comment,
        copy_images=options.copy_images,
    )
    found = read_correction(package)  # what was written is what will be read
    changed = int(np.count_nonzero(found.changed))
    millilitres = changed * before.geometry.voxel_volume_ml
    if not changed:
        print(f"Warning: {options.after} is the same segmentation; the package says that nothing was wrong.")
    print(f"Wrote {package}: {changed:,} voxels changed ({millilitres:.2f} ml), {_states(found.regions)}")
    return 0


def _corrections(options: argparse.Namespace) -> int:
    import numpy as np

    from DIANetLib.acwi.corrections import find_corrections, read_correction

    rows, problems = [], []
    for folder in find_corrections(options.parent):
        try:
            found = read_correction(folder)
        except InputError as error:
            problems.append(str(error))
            continue
        rows.append(
            (
                folder.name,
                found.images[0].name,
                found.reviewer,
                found.finished[:16].replace("T", " "),
                f"{found.model.name} {found.model.version}",
                f"{int(np.count_nonzero(found.changed)):,}",
                _states(found.regions),
            )
        )
    if rows:
        print(table(("package", "image", "reviewer", "finished", "model", "voxels", "regions"), rows))
    elif not problems:
        print(f"{options.parent} holds no correction package.")
    for problem in problems:
        print(f"Cannot be used: {problem}")
    return int(bool(problems))


def _result(folder: Path) -> dict[str, Any]:
    """The `result.json` of an output folder of a segmentation."""
    from DIANetLib.formats.result import RESULT_FORMAT

    remedy = "Give a folder that `dianet segment` wrote."
    try:
        record = json.loads(_text(folder / "result.json"))
    except ValueError as error:
        raise InputError(f"{folder / 'result.json'} is not valid JSON.", remedy=remedy) from error
    if not isinstance(record, dict) or record.get("format") != RESULT_FORMAT:
        raise InputError(f"{folder} is not an output folder of DIANet.", remedy=remedy)
    if record.get("task") != "segmentation" or not isinstance(record.get("inputs"), list):
        raise InputError(f"{folder} holds no segmentation ({record.get('task')}).", remedy=remedy)
    return record


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path.parent} is not a complete output folder: {path.name} cannot be read ({error.strerror}).",
            remedy="Give a folder that `dianet segment` wrote.",
        ) from error


def _images(folder: Path, record: dict[str, Any], given: Sequence[Path] | None) -> list[Volume]:
    """The images that were segmented, read again and compared with their hashes."""
    from dataclasses import replace

    from DIANetLib.formats.image import read_volume

    inputs = record["inputs"]
    if given is not None and len(given) != len(inputs):
        raise InputError(f"{folder} was made of {len(inputs)} images, got {len(given)} with --images.")
    volumes = []
    for number, entry in enumerate(inputs):
        source = given[number] if given is not None else entry.get("source")
        if source is None or not Path(source).exists():
            raise InputError(
                f"The image {entry.get('name') or number + 1} that was segmented is not at {source}.",
                remedy="Say where it is with --images.",
            )
        volume = read_volume(source, modality=entry.get("modality"))
        if volume.sha256() != entry["sha256"]:
            raise InputError(
                f"The image {source} is not the one that was segmented: its hash is"
                f" {volume.sha256()[:12]}…, expected {entry['sha256'][:12]}….",
                remedy="Give the image that was segmented, unchanged, with --images.",
            )
        source = str(Path(source).resolve())
        volumes.append(replace(volume, name=entry.get("name") or volume.name, source=source))
    return volumes


def _after(path: Path, structures: tuple[Structure, ...]) -> Volume:
    """The corrected labels with the values of the structures; segments go by their keys or names."""
    import numpy as np

    from DIANetLib.formats.image import read_labels
    from DIANetLib.formats.segmentation import read_segmentation

    if not path.name.lower().endswith(".seg.nrrd"):
        return read_labels(path)
    labels, segments = read_segmentation(path)
    by_key = {structure.key: structure for structure in structures}
    by_name = {structure.name.casefold(): structure for structure in structures}
    array = np.zeros(labels.array.shape, np.uint16)
    for segment in segments:
        mask = labels.array == segment.value
        meant = by_key.get(segment.key) or by_name.get(segment.name.casefold())
        if meant is None and mask.any():
            raise InputError(
                f"The segment {segment.name!r} of {path} is none of the model's structures:"
                f" {', '.join(structure.name for structure in structures)}.",
                remedy="Remove it, or give it one of these names.",
            )
        if meant is not None:
            array[mask] = meant.value
    return labels.with_array(array.astype(np.min_scalar_type(int(array.max()))))


def _on_grid_of(labels: Volume, whole: Volume) -> Volume:
    """Labels that were saved cropped, as 3D Slicer may, on the whole grid; others as they are."""
    import numpy as np

    ours, theirs = labels.geometry, whole.geometry
    start = theirs.world_to_index(ours.origin)
    first = np.rint(start).astype(int)
    aligned = (
        np.allclose(ours.affine[:3, :3], theirs.affine[:3, :3], atol=1e-4)
        and np.allclose(start, first, atol=1e-2)
        and not ours.same_grid(theirs, 1e-3)
    )
    if not aligned:
        return labels
    low, high = np.maximum(first, 0), np.minimum(first + ours.size, theirs.size)
    if (low >= high).any():
        return labels
    part = labels.array[_box(low - first, high - first)]
    if np.count_nonzero(labels.array) > np.count_nonzero(part):
        return labels  # something lies outside of the image: the grids differ, and will be refused
    array = np.zeros(theirs.shape, labels.array.dtype)
    array[_box(low, high)] = part
    return whole.with_array(array)


def _box(low: npt.NDArray[np.int_], high: npt.NDArray[np.int_]) -> tuple[slice, ...]:
    """Slices (k, j, i) from one index (i, j, k) to another."""
    return tuple(slice(int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))


def _began(record: dict[str, Any], after: Path) -> str:
    """When the review may have begun: not before the segmentation was there, and not after it was saved."""
    now = datetime.now(timezone.utc)
    try:
        created = datetime.fromisoformat(str(record.get("created")))
        saved = datetime.fromtimestamp(after.stat().st_mtime, timezone.utc)
    except (ValueError, OSError):
        return now.isoformat(timespec="seconds")
    moments = [moment for moment in (created, saved) if moment.tzinfo is not None and moment <= now]
    return min(moments, default=now).isoformat(timespec="seconds")


def _states(regions: Sequence[Any]) -> str:
    """How many regions were judged how, such as "3 corrected, 1 skipped"."""
    if not regions:
        return "no regions"
    states = [region.state for region in regions]
    return ", ".join(
        f"{states.count(state)} {state}"
        for state in ("corrected", "accepted", "skipped", "open")
        if state in states
    )
