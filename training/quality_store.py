# SPDX-License-Identifier: Apache-2.0
"""An estimate of quality into a model folder that is there: metadata and card change, the weights do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.card_quality import quality_section
from training.model_folder import measured_model, update_model


def quality_figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What of a summary travels in a bundle's metadata."""
    judged = summary["held_out_judged"]
    return {
        "in_distribution": judged["in_distribution"],
        "series": judged["series"],
        "kinds": judged["kinds"],
        "inner_cases": len(summary["inner"]),
        "held_out_cases": len(summary["held_out"]),
        "corrupted_held_out": summary["corrupted_held_out"],
    }


def store_quality(folder: Path, summary: Mapping[str, Any]) -> None:
    """Put the estimate of a summary into a model folder.

    Args:
        folder: the model folder whose weights were judged.
        summary: what `training.quality.quality` gave.

    Raises:
        InputError: the summary is of other weights.
        BundleError: the folder cannot be used.
        OutputError: it cannot be written.
    """
    model = measured_model(folder, summary, "the estimate is", "quality")

    def change(section: dict[str, Any]) -> None:
        section["quality"] = summary["quality"]
        section["figures"]["quality"] = quality_figures(summary)

    update_model(model.path, change, quality_section(summary))
