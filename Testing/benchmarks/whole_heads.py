# SPDX-License-Identifier: Apache-2.0
"""Whole heads through the cascade, beside the hippocampus of an automatic method (DLMUSE).

    python -m Testing.benchmarks.whole_heads --data DATA --output OUT [--samples T] [--heads NAME ...]

DATA holds `brain-ixi` and `brain-nichart`, each with `images/` and `labels/` (DLMUSE values: hippocampus 47
right, 48 left). The MNI152 head of the nilearn package, which has no labels, is only looked at for whether
both sides are found. Every head goes through `dianet segment` in a process of its own, as a user would run
it, so that seconds and peak memory are those of a user's first call; the labels are compared on the image's
own grid, anterior and posterior taken together. Heads whose record is in OUT/heads are not done again.

The IXI heads that the localiser was not fitted on are named by its model folder; its own are listed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.metrics import dice, hd95
from DIANetLib.errors import DIANetError, InputError
from DIANetLib.formats.image import read_labels
from DIANetLib.volume import Geometry

#: Values of DLMUSE's labelmaps.
DLMUSE = {"left": 48, "right": 47}
PARTS = ("left", "right", "both")
#: The least Dice of both hippocampi together that counts as agreement.
BAR = 0.75
SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Head:
    """A whole head.

    Attributes:
        name: unique among all.
        group: what it is reported with.
        image: file.
        labels: file of DLMUSE's labels on the image's grid; None where there are none.
    """

    name: str
    group: str
    image: Path
    labels: Path | None


@dataclass(frozen=True)
class Agreement:
    """Two masks of one hippocampus, or of both.

    Attributes:
        dice: 0 to 1.
        hd95_mm: 95th percentile of the surface distances, mm.
        volume_ml: ours.
        reference_ml: DLMUSE's.
    """

    dice: float
    hd95_mm: float
    volume_ml: float
    reference_ml: float


def find_heads(data: Path, held_out: Sequence[str]) -> tuple[Head, ...]:
    """The heads of both collections, by group and name.

    Args:
        data: folder with `brain-ixi` and `brain-nichart`.
        held_out: heads of the first that the localiser was not fitted on.

    Raises:
        InputError: there is none.
    """
    found = []
    for folder in ("brain-ixi", "brain-nichart"):
        for image in sorted((data / folder / "images").glob(f"*{SUFFIX}")):
            name = image.name.removesuffix(SUFFIX)
            group = "IXI, held out" if name in held_out else "IXI, fitted"
            group = "NiChart" if folder == "brain-nichart" else group
            labels = data / folder / "labels" / image.name
            found.append(Head(name, group, image, labels if labels.is_file() else None))
    if not found:
        raise InputError(
            f"{data} holds no head: expected brain-ixi/images/*{SUFFIX} or brain-nichart/images/*{SUFFIX}.",
            remedy="Give the folder that holds both collections with --data.",
        )
    order = ("IXI, held out", "NiChart", "IXI, fitted")
    return tuple(sorted(found, key=lambda head: (order.index(head.group), head.name)))


def agreement(
    ours: Mapping[str, npt.NDArray[np.bool_]], labels: npt.NDArray[np.integer[Any]], geometry: Geometry
) -> dict[str, Agreement]:
    """Compare each side, and both together.

    Args:
        ours: masks (k, j, i) by side.
        labels: DLMUSE's labelmap on the same grid.
        geometry: the grid.
    """
    true = {side: labels == value for side, value in DLMUSE.items()}
    pairs = {side: (ours[side], true[side]) for side in DLMUSE}
    pairs["both"] = (ours["left"] | ours["right"], true["left"] | true["right"])
    ml = geometry.voxel_volume_ml
    return {
        part: Agreement(
            dice(mine, theirs),
            hd95(mine, theirs, geometry.spacing),
            float(mine.sum()) * ml,
            float(theirs.sum()) * ml,
        )
        for part, (mine, theirs) in pairs.items()
    }


def run_head(head: Head, folder: Path, *, model: str, samples: int, device: str) -> dict[str, Any]:
    """Segment a head as a user would, and compare it; a failure is a record, not an exception.

    Args:
        head: what to segment.
        folder: where the output folder of `dianet segment` goes.
        model: name or folder.
        samples: stochastic passes.
        device: where the network runs.
    """
    command = [sys.executable, "-m", "DIANetLib", "segment", str(head.image), "--model", model]
    command += ["--output", str(folder), "--overwrite", "--quiet", "--explain", "none"]
    command += ["--samples", str(samples), "--device", device]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stderr is not None  # asked for above
    with process.stderr as stream:
        message = stream.read()
    _, status, usage = os.wait4(process.pid, 0)  # the process's own peak, which Popen.wait() does not tell
    process.returncode = os.waitstatus_to_exitcode(status)
    record: dict[str, Any] = {
        "name": head.name,
        "group": head.group,
        "seconds": time.perf_counter() - started,
        "processor_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }
    if process.returncode:
        lines = message.strip().splitlines()
        return record | {"failure": lines[-1] if lines else f"exit status {process.returncode}"}
    return record | compare(head, folder)


def compare(head: Head, folder: Path) -> dict[str, Any]:
    """What an output folder of `dianet segment` holds, beside DLMUSE's labels."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    labels = read_labels(folder / "labels.nii.gz")
    values = {
        side: [part["value"] for part in result["structures"] if side in part["key"]] for side in DLMUSE
    }
    ours = {side: np.isin(labels.array, found) for side, found in values.items()}
    missing = [side for side, mask in ours.items() if not mask.any()]
    record: dict[str, Any] = {
        "stages_s": result["timings_s"],
        "warnings": result["warnings"],
        "volumes_ml": {s: float(m.sum()) * labels.geometry.voxel_volume_ml for s, m in ours.items()},
        "failure": f"nothing found on the {' and '.join(missing)} side" if missing else None,
    }
    if head.labels is not None:
        reference = read_labels(head.labels)
        if not reference.geometry.same_grid(labels.geometry, tolerance=0.01):
            raise InputError(f"{head.labels} is on another grid than {head.image}.")
        parts = agreement(ours, reference.array, labels.geometry)
        record["agreement"] = {part: asdict(found) for part, found in parts.items()}
    return record


def table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: a row per group and figure, and what failed."""
    rows = [
        "| heads | n | failures | Dice left / right / both | worst (both) | below 0.75 "
        "| HD95, mm | ours / DLMUSE, ml | s | peak, MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for group in dict.fromkeys(record["group"] for record in records):
        rows.append(_row(group, [record for record in records if record["group"] == group]))
    failed = [record for record in records if record.get("failure")]
    rows += ["", f"failures: {len(failed)}"]
    rows += [f"- {record['name']}: {record['failure']}" for record in failed]
    return rows


def _row(group: str, records: Sequence[Mapping[str, Any]]) -> str:
    judged = [record for record in records if record.get("agreement")]
    failures = sum(bool(record.get("failure")) for record in records)
    seconds = np.mean([record["seconds"] for record in records])
    peak = max(record["peak_mb"] for record in records)
    end = f"{seconds:.0f} | {peak:.0f} |"
    if not judged:
        return f"| {group} | {len(records)} | {failures} | – | – | – | – | – | {end}"

    def values(name: str, part: str = "both") -> list[float]:
        return [record["agreement"][part][name] for record in judged]

    worst = min(judged, key=lambda record: record["agreement"]["both"]["dice"])
    scores = " / ".join(f"{np.mean(values('dice', part)):.3f}" for part in PARTS)
    below = sum(value < BAR for value in values("dice"))
    volumes = f"{np.mean(values('volume_ml')):.2f} / {np.mean(values('reference_ml')):.2f}"
    return (
        f"| {group} | {len(records)} | {failures} | {scores} | {min(values('dice')):.3f} ({worst['name']})"
        f" | {below} | {np.mean(values('hd95_mm')):.2f} | {volumes} | {end}"
    )


def stages(records: Sequence[Mapping[str, Any]]) -> str:
    """Mean seconds per stage over the heads that went through."""
    done = [record["stages_s"] for record in records if "stages_s" in record]
    names = dict.fromkeys(name for found in done for name in found)
    return ", ".join(f"{name} {np.mean([found.get(name, 0.0) for found in done]):.1f} s" for name in names)


def measure(heads: Sequence[Head], output: Path, **settings: Any) -> list[dict[str, Any]]:
    """Records of all heads, in order; those that are there with the same settings are read."""
    records = []
    (output / "heads").mkdir(parents=True, exist_ok=True)
    for number, head in enumerate(heads, start=1):
        file = output / "heads" / f"{head.name}.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if record is None or record["settings"] != settings:
            record = run_head(head, output / "results" / head.name, **settings) | {"settings": settings}
            file.write_text(json.dumps(record, indent=1), encoding="utf-8")
        records.append(record)
        found = record.get("agreement", {}).get("both", {}).get("dice")
        told = record.get("failure") or ("no labels" if found is None else f"Dice {found:.3f}")
        print(f"{number}/{len(heads)} {head.name}: {told}, {record['seconds']:.0f} s", flush=True)
    return records


def main(argv: list[str] | None = None) -> int:
    """Print the table; exit status 1 if a head failed or the mean Dice of a group is below the bar."""
    parser = argparse.ArgumentParser(description="Whole heads through the cascade, beside DLMUSE.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", default="hippocampus", help="a model's name or folder")
    parser.add_argument("--samples", type=int, default=0, help="stochastic passes (default: 0)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--heads", nargs="+", metavar="NAME", help="some heads only (default: all)")
    options = parser.parse_args(argv)
    try:
        heads = chosen_heads(options.data, options.model, options.heads)
    except DIANetError as error:
        print(f"whole_heads: error: {error}", file=sys.stderr)
        return 2
    settings = {"model": options.model, "samples": options.samples, "device": options.device}
    records = measure(heads, options.output, **settings)
    text = "\n".join([*table(records), "", f"stages: {stages(records)}"])
    (options.output / "whole-heads.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    groups = {record["group"] for record in records if record.get("agreement")}
    means = [
        np.mean([r["agreement"]["both"]["dice"] for r in records if r["group"] == g and r.get("agreement")])
        for g in groups
    ]
    return int(any(record.get("failure") for record in records) or any(mean < BAR for mean in means))


def chosen_heads(data: Path, model: str, names: Sequence[str] | None) -> tuple[Head, ...]:
    """All heads, the MNI152 one among them if nilearn is there, or those of some names."""
    from DIANetLib.bundle import load_bundle
    from DIANetLib.demo import mni_head
    from DIANetLib.errors import DependencyError

    localiser = load_bundle(model).load_localiser()
    held_out = () if localiser is None else localiser.metadata.dianet.training.get("held_out", ())
    heads = list(find_heads(data, held_out))
    try:
        heads.append(Head("MNI152", "MNI152", mni_head(), None))
    except DependencyError as error:
        print(error, file=sys.stderr)
    if names is None:
        return tuple(heads)
    unknown = sorted(set(names) - {head.name for head in heads})
    if unknown:
        raise InputError(f"--heads names {', '.join(unknown)}, which {data} does not hold.")
    return tuple(head for head in heads if head.name in names)


if __name__ == "__main__":
    raise SystemExit(main())
