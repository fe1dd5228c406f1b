# SPDX-License-Identifier: Apache-2.0
"""What runs of a model tell of cases whose true Dice is known, and of corrupted copies of them.

Every case is segmented by the product's own engine, as it is and corrupted, on its source grid. What a case
gave is kept as one JSON file, and not done again for the same weights and settings.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from DIANetLib.acwi.metrics import dice
from DIANetLib.acwi.quality import QualityFeatures
from DIANetLib.inference.engine import Segmenter
from DIANetLib.inference.prediction import Prediction
from DIANetLib.volume import Volume
from training.config import TrainingConfig
from training.datasets import Case, SourceCase, read_case
from training.progress import track
from training.quality_series import Corruption, corrupted
from training.trial import named_volumes

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Told:
    """What one run told of one structure, and how good it was.

    Attributes:
        case: the case's name.
        kind: of the corruption, "none" for the case as it is.
        level: of the corruption.
        structure: its key.
        dice: true Dice, 0 to 1.
        features: None where the structure was not found.
    """

    case: str
    kind: str
    level: float
    structure: str
    dice: float
    features: QualityFeatures | None


def run_cases(
    engine: Segmenter,
    config: TrainingConfig,
    cases: Sequence[Case],
    corruptions: Sequence[Corruption],
    folder: Path,
    *,
    samples: int,
    seed: int,
    sha256: str,
    title: str = "runs",
) -> list[Told]:
    """Segment cases and corrupted copies of them.

    A structure that neither the segmentation nor the reference has tells nothing and is left out.

    Args:
        engine: of the model.
        config: how cases are read.
        cases: with labels.
        corruptions: what is done to each of them.
        folder: where what a case gave is kept.
        samples: T, 2 or more.
        seed: of the samples and the corruptions.
        sha256: hash of the weights.
        title: for the display of progress.
    """
    found: list[Told] = []
    for case in track(cases, title, unit="case"):
        file = folder / f"{case.name}.json"
        mirrored = engine.model.mirror_samples
        key = json.dumps([FORMAT_VERSION, sha256, engine.model.temperature, samples, seed, mirrored])
        known = _load(file, key)
        source: SourceCase | None = None
        rows: list[Told] = []
        for corruption in corruptions:
            part = known.get(str(corruption))
            if part is None:
                source = read_case(case, config.data) if source is None else source
                part = _run(engine, config, source, corruption, samples=samples, seed=seed)
                known[str(corruption)] = part
                _save(file, key, known)
            rows += part
        found += rows
    return found


def _run(
    engine: Segmenter,
    config: TrainingConfig,
    source: SourceCase,
    corruption: Corruption,
    *,
    samples: int,
    seed: int,
) -> list[Told]:
    volumes = [
        corrupted(volume, corruption, seed_of(source.name, number, seed))
        for number, volume in enumerate(named_volumes(source, config))
    ]
    assert source.labels is not None  # only cases with labels come here
    return compared(
        engine.segment(volumes, samples=samples, seed=seed), source.labels, source.name, corruption
    )


def compared(prediction: Prediction, reference: Volume, case: str, corruption: Corruption) -> list[Told]:
    """What a prediction told of each structure that it or the reference has.

    Args:
        prediction: of two samples or more.
        reference: classes 0, 1, ... in the order of the prediction's structures, on its grid.
        case: the case's name.
        corruption: what was done to the image.
    """
    rows = []
    for structure in prediction.structures:
        ours, true = prediction.labels.array == structure.value, reference.array == structure.value
        if ours.any() or true.any():
            told = prediction.quality[structure.key]
            score = dice(ours, true)
            rows.append(Told(case, corruption.kind, corruption.level, structure.key, score, told))
    return rows


def seed_of(case: str, modality: int, seed: int) -> int:
    """The seed of a case's corruption, another one for each modality."""
    return zlib.crc32(f"{case} {modality} {seed}".encode())


def _save(file: Path, key: str, known: dict[str, list[Told]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    runs = {name: [asdict(row) for row in rows] for name, rows in known.items()}
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps({"key": key, "runs": runs}), encoding="utf-8")
    temporary.replace(file)


def _load(file: Path, key: str) -> dict[str, list[Told]]:
    """What a case gave with the same weights and settings, per corruption."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["key"] != key:
            return {}
        return {name: [_told(row) for row in rows] for name, rows in record["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError):  # none, cut off or foreign: done again
        return {}


def _told(row: dict) -> Told:
    features = row.pop("features")
    return Told(**row, features=None if features is None else QualityFeatures(**features))
