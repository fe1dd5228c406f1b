# SPDX-License-Identifier: Apache-2.0
"""The Dice to be expected of one pass, fitted and judged as that of samples is (`training.quality`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.quality import ONE_PASS_FEATURES
from DIANetLib.bundle import LoadedModel
from DIANetLib.bundle_schema import OnePassSpec
from DIANetLib.inference.engine import Segmenter
from DIANetLib.network.one_pass import OnePassHead
from training.config import TrainingConfig
from training.datasets import Case
from training.quality import as_json, reference_volumes
from training.quality_fit import cross_validated, fit_quality, usual_volumes
from training.quality_judge import judged_rows, judgements, not_found, table_row
from training.quality_runs import Told, run_cases
from training.quality_series import LEVELS, Corruption, series
from training.summary import write_table


@dataclass(frozen=True)
class QualityPart:
    """How expected Dice is fitted.

    Attributes:
        inner: corrupt only the first so many inner cases; None for all.
        held_out: corrupt only the first so many held-out cases; None for all.
        seed: of the corruptions.
    """

    inner: int | None = None
    held_out: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class HeadModel(LoadedModel):
    """A model folder with a head that is not in it, and without localiser: cases of its own data need none.

    Attributes:
        spec: describes the head.
        head: stands in the folder's place.
    """

    spec: OnePassSpec | None = None
    head: OnePassHead | None = None

    @property
    def localiser(self) -> None:
        """There is none."""

    @property
    def one_pass(self) -> OnePassSpec | None:
        """What was given."""
        return self.spec

    def one_pass_head(self, device: str | torch.device = "cpu") -> OnePassHead | None:
        """The head that was given, on a device."""
        return None if self.head is None else self.head.to(device)


def fitted_quality(
    part: QualityPart,
    config: TrainingConfig,
    model: LoadedModel,
    head: OnePassHead,
    correction: ErrorCalibration,
    cases: Mapping[str, Sequence[Case]],
    folder: Path,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Fit the Dice to be expected on inner cases and copies of them, and judge it on held-out ones.

    Args:
        part: how.
        config: how cases are read.
        model: the model folder.
        head: the one-pass head.
        correction: of its error probability.
        cases: under "fitted", "inner" and "held_out".
        folder: where what runs told is kept, and the table goes.
        device: where the network runs.

    Returns:
        The estimate and its figures, as the summary of `training.quality` has them.
    """
    spec = OnePassSpec(channels=head.channels, depth=head.depth, error_calibration=correction)
    beside = HeadModel(model.metadata, model.path, model.sha256, spec=spec, head=head)
    engine = Segmenter(beside, str(device))
    key = f"{model.sha256} {_fingerprint(head)} {correction.to_json()}"

    def told(name: str, corrupted: int | None) -> list[Told]:
        known = cases[name]
        most = len(known) if corrupted is None else corrupted
        rows: list[Told] = []
        for group, chosen in ((known[:most], series()), (known[most:], (Corruption(),))):
            rows += run_cases(
                engine,
                config,
                group,
                chosen,
                folder / name.replace("_", "-"),
                samples=0,
                seed=part.seed,
                sha256=key,
                title=name,
            )
        return rows

    inner = told("inner", part.inner)
    volumes = usual_volumes(reference_volumes([*cases["fitted"], *cases["inner"]], config))
    options: dict[str, Any] = {"features": ONE_PASS_FEATURES, "samples": 0}
    fitted = fit_quality(inner, volumes, **options)
    again = judgements(judged_rows(cross_validated(inner, volumes, **options)))
    held_out = told("held_out", part.held_out)
    judged = judged_rows([(row, fitted) for row in held_out])
    write_table(folder / "rows.csv", [table_row(one) for one in judged])
    return {
        "quality": as_json(fitted),
        "corrupted_inner": len(cases["inner"]) if part.inner is None else part.inner,
        "corrupted_held_out": len(cases["held_out"]) if part.held_out is None else part.held_out,
        "levels": {k: [one.level for one in series() if one.kind == k] for k in LEVELS},
        "inner_cross_validated": again,
        "held_out_judged": judgements(judged),
        "not_found": {"inner": not_found(inner), "held_out": not_found(held_out)},
    }


def _fingerprint(head: OnePassHead) -> str:
    """Tells heads apart, to keep what runs told of each."""
    import hashlib

    digest = hashlib.sha256()
    for value in head.state_dict().values():
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
