# SPDX-License-Identifier: Apache-2.0
"""What is known of a model's explanations, into its folder: metadata and card change, the weights do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from DIANetLib.bundle import load_bundle, read_metadata
from DIANetLib.bundle_export import CARD
from DIANetLib.bundle_schema import BundleMetadata
from DIANetLib.errors import InputError
from DIANetLib.model_folders import METADATA
from training.card_quality import with_section
from training.explanation_tables import table
from training.summary import write_text

#: Heading by which the section of a card is found again.
HEADING = "## What its explanations are worth"


def explanation_section(summary: Mapping[str, Any]) -> str:
    """The section of a model card, heading included, from what `training.explanation` gave."""
    layers = ", ".join(summary["layers"])
    failed = [gate for gate, passed in summary["passed"]["ours"].items() if passed is False]
    gates = "; ".join(f"{name}: {words}" for name, words in summary["gates"].items())
    told = (
        f"Maps of positive gradients place by place, of {layers} together, measured on"
        f" {len(summary['cases'])} cases that the model was not fitted on; intervals are bootstrapped over"
        f" cases. Gates, stated before these cases were looked at ({gates}), that they fail:"
        f" {', '.join(failed) or 'none'}. A map tells what speaks for a structure in the network, not whether"
        " the network is right."
    )
    return "\n\n".join((HEADING, told, "\n".join(table(summary))))


def store_explanations(folder: Path, summary: Mapping[str, Any]) -> None:
    """Put the figures of a summary into a model folder.

    Args:
        folder: the model folder that was measured.
        summary: what `training.explanation.explanations` gave.

    Raises:
        InputError: the summary is of other weights, or of cases on which choices were made.
        BundleError: the folder cannot be used.
        OutputError: it cannot be written.
    """
    model = load_bundle(folder)
    if summary["weights_sha256"] != model.sha256:
        raise InputError(
            f"the explanations that were measured are of other weights than those in {folder}.",
            remedy="Run `python -m training explanations` with this --model.",
        )
    if summary["part"] != "held out":
        raise InputError(
            "figures of inner cases, on which choices are made, do not go into a model folder.",
            remedy="Run `python -m training explanations` without --inner.",
        )
    kept = ("passed", "pointing", "cascade", "perturbation", "regions")
    metadata = read_metadata(model.path).model_dump(mode="json", by_alias=True)
    metadata["dianet"]["figures"]["explanations"] = {name: summary[name] for name in kept}
    card = with_section((model.path / CARD).read_text(encoding="utf-8"), explanation_section(summary))
    write_text(model.path / METADATA, BundleMetadata.model_validate(metadata).to_json())
    write_text(model.path / CARD, card)
