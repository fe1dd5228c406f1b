# SPDX-License-Identifier: Apache-2.0
"""The model folder of a model that learned from corrections: a new version that names its parents."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from DIANetLib import __version__
from DIANetLib.bundle import LoadedModel, load_bundle, save_bundle
from DIANetLib.bundle_export import CARD
from DIANetLib.errors import InputError
from training.config import TrainingConfig
from training.finetune_cases import CorrectedCase, Level
from training.finetune_config import FinetuneConfig
from training.finetune_judge import as_markdown
from training.rehearsal import Rehearsal
from training.weights import state_sha256


def next_version(version: str) -> str:
    """The version after one: its last number, one higher; ".1" behind one without a number at its end."""
    found = re.fullmatch(r"(.*?)(\d+)", version)
    return f"{version}.1" if found is None else f"{found[1]}{int(found[2]) + 1}"


def ancestry_of(model: LoadedModel) -> list[dict[str, Any]]:
    """The versions before a model's next one, the oldest first, with what each had learned from."""
    facts = model.metadata.dianet.training
    earlier = list(facts.get("ancestry") or [])
    return [*earlier, {**asdict(model.ref), "corrections": _ids(facts)}]


def write_learned(
    into: Path,
    model: LoadedModel,
    weights: Mapping[str, Tensor],
    *,
    version: str,
    config: TrainingConfig,
    settings: FinetuneConfig,
    corrected: Sequence[CorrectedCase],
    rehearsal: Rehearsal,
    table: Mapping[str, Any],
    temperature: float,
    replace: bool = False,
) -> Path:
    """Write INTO/NAME; returns that folder.

    Args:
        into: folder of model folders.
        model: the parent.
        weights: what was fitted, float32.
        version: of the new model.
        config: how it was fitted.
        settings: of the fit.
        corrected: cases that it learned from.
        rehearsal: cases of its own data that were fitted along and judged.
        table: before and after, see `training.finetune_judge.as_json`.
        temperature: of the new model.
        replace: replace a model folder that is there.

    Raises:
        BundleError, OutputError: it cannot be written.
    """
    parent = model.metadata.dianet
    ancestry = ancestry_of(model)
    learned = _facts(config, settings, corrected, rehearsal)
    facts = {
        "held_out": parent.training.get("held_out", []),
        "patch": list(config.patch),
        "ancestry": ancestry,
        "learned": learned,
        "parent": {k: v for k, v in parent.training.items() if k not in ("ancestry", "parent", "held_out")},
        "weights_sha256": state_sha256({name: value.half().float() for name, value in weights.items()}),
        "code_version": __version__,
    }
    figures: dict[str, Any] = {"before_after": dict(table)}
    old = table["figures"].get("old")
    if old is not None and rehearsal.unseen:
        figures |= {"cases": old["cases"], "dice": {"mean": old["after"], "n": old["cases"]}}
    changes = {
        "temperature": temperature,
        "training": facts,
        "figures": figures,
        # Both were fitted on the parent's samples.
        "quality": None,
        "error_calibration": None,
    }
    sentence = (
        f"learned from {learned['images']} corrected images ({learned['voxels_changed']:,} voxels changed)"
        f" by {', '.join(learned['reviewers'])}"
    )
    metadata = model.metadata.model_copy(
        update={
            "version": version,
            "changelog": {**model.metadata.changelog, version: sentence},
            "data_source": f"{model.metadata.data_source} {learned['images']} corrected images.".strip(),
            "dianet": parent.model_copy(update=changes),
        }
    )
    atlas = model.atlas
    folder = save_bundle(
        into / model.name,
        metadata,
        dict(weights),
        card=_card(model, version, sentence, learned, table, ancestry),
        licence=_licence(model, version),
        overwrite=replace,
        atlas=atlas,
        atlas_spacing_mm=model.atlas_spacing_mm or (1.0, 1.0, 1.0),
    )
    stored = load_bundle(folder).network().state_dict()
    if state_sha256(stored) != facts["weights_sha256"]:
        raise InputError(f"the weights in {folder} are not the ones that were judged.")
    return folder


def _facts(
    config: TrainingConfig,
    settings: FinetuneConfig,
    corrected: Sequence[CorrectedCase],
    rehearsal: Rehearsal,
) -> dict[str, Any]:
    changed = sum(int(np.count_nonzero(case.levels == Level.CHANGED)) for case in corrected)
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "corrections": sorted({case.correction for case in corrected}),
        "reviewers": sorted({case.reviewer for case in corrected}),
        "images": len({case.group for case in corrected}),
        "voxels_changed": changed,
        "settings": settings.model_dump(mode="json"),
        "mirror_axes": list(config.augment.mirror_axes),
        "rehearsed": [case.name for case in rehearsal.buffer],
        "judged_on": [case.name for case in rehearsal.judged],
        "torch": torch.__version__.split("+")[0],
    }


def _ids(facts: Mapping[str, Any]) -> list[str]:
    learned = facts.get("learned")
    return list(learned.get("corrections") or []) if isinstance(learned, dict) else []


def _card(
    model: LoadedModel,
    version: str,
    sentence: str,
    learned: Mapping[str, Any],
    table: Mapping[str, Any],
    ancestry: Sequence[Mapping[str, Any]],
) -> str:
    lines = [
        f"# {model.name}",
        f"{model.metadata.description} Version {version}, {sentence}.",
        "**For research use only. This is not a medical device; it is not cleared or approved for diagnosis"
        " or treatment.**",
        "## Before and after, on cases that were not fitted on",
        as_markdown(table),
        "Corrected cases were judged by cross-validation with the same settings; the weights here were then"
        f" fitted on all of them, and are {table['share']:g} of the way from those before to those fitted,"
        " the share that these figures chose. Dice, mean over structures; 95 % bootstrap intervals over"
        " cases.",
        *(note for note in table["notes"]),
        "## Where it comes from",
        "\n".join(
            f"- {entry['name']} {entry['version']}, weights {entry['sha256'][:12]}" for entry in ancestry
        )
        + f"\n- this version, from the corrections {', '.join(learned['corrections'])}",
        f"Rehearsed along: {len(learned['rehearsed'])} cases.",
        "Expected Dice is the closed form from calibrated probabilities, and the error probability is not"
        " corrected class by class: the parent's estimates were fitted on its samples.",
        f"## The card of version {model.version}",
    ]
    try:
        card = (model.path / CARD).read_text(encoding="utf-8")
    except OSError:
        card = "It has none."
    demoted = re.sub(r"^(#+) ", r"##\1 ", card, flags=re.MULTILINE)
    return "\n\n".join([*lines, demoted.strip()]) + "\n"


def _licence(model: LoadedModel, version: str) -> str:
    try:
        text = (model.path / "LICENSE").read_text(encoding="utf-8").rstrip()
    except OSError:
        text = "The parent's licence was not found; the terms of its data hold."
    return (
        f"{text}\n\nVersion {version} was fitted further, from version {model.version}, on corrected"
        " segmentations; rights in those images and labels are their owners'.\n"
    )
