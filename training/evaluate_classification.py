# SPDX-License-Identifier: Apache-2.0
"""The classification part of an evaluation, (16-18): class probabilities of held-out cases and their figures.

The product's own code classifies each case: T samples at a temperature that the inner cases set are averaged.
Beside them stands one plain mean pass at temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from DIANetLib.acwi.metrics import error_auroc
from DIANetLib.errors import InputError
from DIANetLib.inference.classification import Classification
from DIANetLib.inference.classify import classify_prepared, whole_image_windows
from DIANetLib.inference.sampling import sample_generators
from DIANetLib.network import DIANet
from training.bootstrap import estimates
from training.datasets import Case, PreparedCase, load_case
from training.progress import track
from training.scoring_classification import Classified, confusion, figures_at
from training.temperature import fit_sampled_temperature
from training.trial import Trial, classes_of, window_of

FloatArray = npt.NDArray[np.floating]
#: Wider than for voxels: a short fit is far from sure, a long one on few images far too sure.
TEMPERATURE_BOUNDS = (0.05, 10.0)


@dataclass(frozen=True, eq=False)
class ClassifiedCase:
    """What a case was taken for.

    Attributes:
        case: its name.
        group: what it belongs to.
        target: its true class.
        probabilities: (C,) mean over T samples at the fitted temperature.
        plain: (C,) of one mean pass at temperature 1.
        total: entropy of `probabilities`, nats.
        epistemic: mutual information between class and sample, nats; 0 for a single pass.
    """

    case: str
    group: str
    target: int
    probabilities: FloatArray
    plain: FloatArray
    total: float
    epistemic: float


def with_target(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases whose class is known."""
    return tuple(case for case in cases if case.target is not None)


@torch.inference_mode()
def class_log_probabilities(
    network: DIANet, case: PreparedCase, window: tuple[int, int, int], *, samples: int = 0, seed: int = 0
) -> FloatArray:
    """Log-probabilities of the classes of a case, (max(T, 1), R, C), R its slices for a 2-D network, else 1.

    Args:
        network: in evaluation mode.
        case: prepared; it is read as the product reads it.
        window: voxels (i, j, k) that the network was fitted with.
        samples: T; 0 is one mean pass.
        seed: of the samples.
    """
    device = next(network.parameters()).device
    image = torch.from_numpy(case.image)
    flat = network.config.spatial_dims == 2
    available = None if all(case.available) else torch.tensor([case.available], device=device)
    rows = []
    for part in whole_image_windows(network, image.shape[1:], window):
        x = part.cut(image).unsqueeze(0).to(device)
        encoded = network.encode(x.squeeze(2) if flat else x, available)
        generators = sample_generators(seed, part.index, range(samples)) if samples else None
        probabilities = network.decode(encoded, generators).classified.probabilities()
        rows.append(probabilities.clamp_min(torch.finfo(torch.float32).tiny).log().cpu())
    return np.asarray(torch.stack(rows, dim=1).numpy())


def classification_temperature(trial: Trial) -> float:
    """The temperature that fits the T samples of the inner cases."""
    logits, targets = [], []
    for case in track(with_target(trial.inner), "temperature", unit="case"):
        prepared = load_case(case, trial.fitted.config)
        window = window_of(trial.config)
        found = class_log_probabilities(
            trial.network, prepared, window, samples=trial.samples, seed=trial.seed
        )
        logits.append(found)
        targets.append(np.full(found.shape[1], case.target))
    return fit_sampled_temperature(logits, targets, bounds=TEMPERATURE_BOUNDS)


def classified_cases(trial: Trial, temperature: float) -> list[ClassifiedCase]:
    """Classify the held-out cases whose class is known.

    Raises:
        InputError: if there is none.
    """
    cases = with_target(trial.held_out)
    if not cases:
        raise InputError("no held-out case has a class to compare a classification with.")
    found = []
    for case in track(cases, "classification", unit="case"):
        prepared = load_case(case, trial.reading)
        calibrated = _classified(trial, prepared, temperature, trial.samples)
        plain = _classified(trial, prepared, 1.0, 0)
        assert case.target is not None  # only such cases come here
        found.append(
            ClassifiedCase(
                case=case.name,
                group=case.group or case.name,
                target=case.target,
                probabilities=np.array(calibrated.probabilities),
                plain=np.array(plain.probabilities),
                total=calibrated.total,
                epistemic=calibrated.epistemic,
            )
        )
    return found


def classification_table(cases: Sequence[ClassifiedCase], keys: Sequence[str]) -> list[dict[str, Any]]:
    """A row per case; `keys` are the names of the classes."""
    return [
        {
            "case": part.case,
            "group": part.group,
            "target": keys[part.target],
            "predicted": keys[int(part.probabilities.argmax())],
            **{f"p_{key}": float(p) for key, p in zip(keys, part.probabilities, strict=True)},
            **{f"plain_{key}": float(p) for key, p in zip(keys, part.plain, strict=True)},
            "total": part.total,
            "epistemic": part.epistemic,
        }
        for part in cases
    ]


def classification_summary(
    cases: Sequence[ClassifiedCase], keys: Sequence[str], temperature: float | None, *, seed: int = 0
) -> dict[str, Any]:
    """Figures of classified cases, each with an interval over groups of cases, and the confusion.

    Besides the figures of `scoring_classification`, the same of the plain pass ("plain_...") and
    "error_auroc_total", how well the entropy tells wrong answers from right ones.
    """
    targets = np.array([part.target for part in cases])
    ours = Classified(np.stack([part.probabilities for part in cases]), targets)
    plain = Classified(np.stack([part.plain for part in cases]), targets)
    entropy = np.array([part.total for part in cases])
    first, second = figures_at(ours), figures_at(plain)

    def figures(chosen: npt.NDArray[np.int64]) -> dict[str, float]:
        wrong = ours.predicted[chosen] != targets[chosen]
        return {
            **first(chosen),
            "error_auroc_total": error_auroc(entropy[chosen], wrong),
            **{f"plain_{name}": value for name, value in second(chosen).items()},
        }

    found = estimates(figures, len(cases), groups=[part.group for part in cases], seed=seed)
    return {
        "cases": len(cases),
        "classes": list(keys),
        "cases_per_class": np.bincount(targets, minlength=len(keys)).tolist(),
        "temperature": temperature,
        "figures": {name: asdict(part) for name, part in found.items()},
        "confusion": confusion(ours).tolist(),
    }


def _classified(trial: Trial, case: PreparedCase, temperature: float, samples: int) -> Classification:
    return classify_prepared(
        trial.network,
        case.image,
        classes_of(trial.config, temperature),
        window_of(trial.config),
        available=case.available,
        samples=samples,
        seed=trial.seed,
    )
