# SPDX-License-Identifier: Apache-2.0
"""What a model's encoder saw of images, and what else a run of the product's engine told of them.

Every run is kept as one file, and not done again for the same weights and settings.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.familiarity import Familiarity
from DIANetLib.acwi.metrics import dice
from DIANetLib.bundle import LoadedModel
from DIANetLib.inference.engine import Segmenter
from DIANetLib.inference.prediction import Box, Prediction
from DIANetLib.volume import Volume

FORMAT_VERSION = 1

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """What one run gave.

    Attributes:
        group: what the image is of.
        name: of the image, and what was done to it.
        features: (D,), what familiarity is judged by.
        volume_ml: of all that was found.
        total: mean total entropy over what was found, nats; None where nothing was.
        epistemic: the same of the epistemic part; None without samples, too.
        dice: mean true Dice over the structures, where a reference is known.
    """

    group: str
    name: str
    features: FloatArray
    volume_ml: float
    total: float | None
    epistemic: float | None
    dice: float | None = None


class Recorder(LoadedModel):
    """A model folder that reads images as they are and keeps what its encoder sees.

    It needs no localiser for cases of its own data, and no familiarity: it says that all is familiar.
    """

    @property
    def localiser(self) -> None:
        """There is none."""

    @property
    def familiarity(self) -> _Notes:  # type: ignore[override] # what is to be fitted is not there yet
        """Keeps the features that it is to judge."""
        return self.__dict__.setdefault("_notes", _Notes())


class _Notes:
    def __init__(self) -> None:
        self.features: FloatArray | None = None

    def judge(self, features: FloatArray, region: str = "") -> Familiarity:
        self.features = features
        return Familiarity(0.0, "familiar", region)


@dataclass(frozen=True)
class Runs:
    """Runs one model, and keeps what it gave.

    Attributes:
        engine: of a `Recorder`.
        model: that model.
        folder: where runs are kept.
        seed: of the samples.
    """

    engine: Segmenter
    model: Recorder
    folder: Path
    seed: int = 0

    def seen(
        self,
        group: str,
        name: str,
        volumes: Callable[[], Sequence[Volume]],
        *,
        samples: int = 0,
        box: Box | None = None,
        reference: Callable[[], Volume] | None = None,
    ) -> Seen:
        """Run the model, or take what is kept.

        Args:
            group: what the image is of.
            name: of the image, and what was done to it.
            volumes: reads the images.
            samples: T; 0 tells nothing of the epistemic part.
            box: what is read, LPS mm.
            reference: reads the true labels, values as the model's structures have them.
        """
        model = self.model
        key = json.dumps(
            [FORMAT_VERSION, model.sha256, model.temperature, samples, self.seed, model.mirror_samples]
        )
        file = self.folder / f"{zlib.crc32(f'{group} {name} {samples}'.encode()):08x}.npz"
        kept = _load(file, key, group, name)
        if kept is not None:
            return kept
        found = self.engine.segment(volumes(), samples=samples, seed=self.seed, roi=box)
        features = self.model.familiarity.features
        assert features is not None  # the engine asks for them
        seen = Seen(
            group,
            name,
            features,
            float(sum(found.volumes_ml.values())),
            _mean_over_found(found, "total"),
            _mean_over_found(found, "epistemic") if samples > 1 else None,
            None if reference is None else _dice(found, reference()),
        )
        _save(file, key, seen)
        return seen


def _mean_over_found(found: Prediction, kind: str) -> float | None:
    mask = found.labels.array > 0
    return float(found.uncertainty[kind].array[mask].mean(dtype=float)) if mask.any() else None


def _dice(found: Prediction, reference: Volume) -> float:
    """Mean over the structures that either has; 0 where neither has any."""
    scores = []
    for structure in found.structures:
        ours, true = found.labels.array == structure.value, reference.array == structure.value
        if ours.any() or true.any():
            scores.append(dice(ours, true))
    return float(np.mean(scores)) if scores else 0.0


def _save(file: Path, key: str, seen: Seen) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    facts = {name: value for name, value in asdict(seen).items() if name != "features"}
    temporary = file.with_suffix(".tmp.npz")
    np.savez(temporary, features=seen.features, facts=json.dumps({"key": key, **facts}))
    temporary.replace(file)


def _load(file: Path, key: str, group: str, name: str) -> Seen | None:
    try:
        with np.load(file) as kept:
            facts, features = json.loads(str(kept["facts"])), kept["features"]
        if facts.pop("key") != key or (facts["group"], facts["name"]) != (group, name):
            return None
        return Seen(features=features, **facts)
    except (OSError, ValueError, KeyError, TypeError):  # none, cut off or foreign: done again
        return None
