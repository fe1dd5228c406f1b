# SPDX-License-Identifier: Apache-2.0
"""A one-pass head into a model folder that is there: metadata and card change, the weights do not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.bundle import load_bundle
from DIANetLib.bundle_schema import OnePassSpec
from DIANetLib.bundle_weights import check_finite
from DIANetLib.errors import InputError
from DIANetLib.model_folders import ONE_PASS
from training.card_one_pass import one_pass_section
from training.model_folder import measured_model, update_model


def store_one_pass(folder: Path, summary: Mapping[str, Any], head: Path) -> None:
    """Put a fitted head into the model folder that it was fitted behind.

    Args:
        folder: the model folder.
        summary: what `training.one_pass.one_pass` gave.
        head: the file with the head's weights.

    Raises:
        InputError: the summary is of other weights, or the file is not the head that it judged.
        BundleError: the folder or the head cannot be used.
        OutputError: it cannot be written.
    """
    measured_model(folder, summary, "the head is", "one-pass")
    if hashlib.sha256(head.read_bytes()).hexdigest() != summary["head_sha256"]:
        raise InputError(
            f"{head} is another head than the one that was judged.",
            remedy="Run `python -m training one-pass` again.",
        )
    add_one_pass(
        folder,
        load_file(head),
        OnePassSpec(
            channels=summary["settings"]["channels"],
            depth=summary["settings"]["depth"],
            error_calibration=ErrorCalibration.from_json(summary["error_calibration"]),
            quality=None if summary["quality"] is None else summary["quality"]["quality"],
        ),
        figures=one_pass_figures(summary),
        section=one_pass_section(summary),
    )


def one_pass_figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What of a summary travels in a bundle's metadata."""
    told = summary["quality"]
    judged = None if told is None else told["held_out_judged"]
    return {
        "cases": len(summary["held_out"]),
        "samples": summary["samples"],
        "teacher": summary["teacher"],
        **summary["figures"]["held_out"],
        **(
            {}
            if judged is None
            else {"quality": {part: judged[part] for part in ("in_distribution", "series", "kinds")}}
        ),
    }


def add_one_pass(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    spec: OnePassSpec,
    *,
    figures: Mapping[str, Any],
    section: str,
) -> None:
    """Write a head into a model folder; the metadata come last, so that they never name what is not there.

    Args:
        folder: the model folder.
        state: the head's weights.
        spec: describes the head; hash and size are filled in here.
        figures: for the metadata.
        section: of the model card, heading included.

    Raises:
        BundleError: the folder or the head cannot be used.
        OutputError: it cannot be written.
    """
    model = load_bundle(folder)
    kept = {name: value.detach().cpu().float().contiguous() for name, value in state.items()}
    check_finite(kept, f"The weights of the one-pass head of {model.name!r}")
    data = save(kept, metadata={"format": "pt"})
    spec = spec.model_copy(update={"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)})

    def change(part: dict[str, Any]) -> None:
        part["one_pass"] = spec.model_dump(mode="json")
        part["figures"]["one_pass"] = dict(figures)

    update_model(model.path, change, section, (ONE_PASS, data))
    load_bundle(model.path).one_pass_head()  # what was written is read
