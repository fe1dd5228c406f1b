# SPDX-License-Identifier: Apache-2.0
"""The model card of a bundle, from the configuration and the evaluation's summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.card_figures import card_figures
from training.config import TrainingConfig
from training.licences import licence_of, shipping_note
from training.trial import modalities_of

_INTENDED_USE = "Research on images like those it was fitted on."


def model_card(config: TrainingConfig, summary: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Text of the bundle's docs/README.md.

    Args:
        config: the fit's configuration.
        summary: the evaluation's summary.json.
        facts: how the weights came about, as the bundle's metadata holds it.
    """
    about = config.about
    licence = licence_of(config)
    name = f"[{licence.name}]({licence.address})" if licence.address else licence.name
    note = shipping_note(config)
    sections = [
        f"# {config.name}\n\n{config.description} Version {config.version}.",
        "**For research use only. This is not a medical device; it is not cleared or approved for diagnosis"
        " or treatment.**" + (f"\n\n**{note}**" if note else ""),
        f"## What it is for\n\n{about.intended_use or _INTENDED_USE}",
        "## What it gives\n\n" + _gives(config, facts),
        f"## Data\n\n{about.data or 'See the licence notice.'}\n\n" + _data_facts(config, summary),
        "## How good it is on cases it was not fitted on\n\n" + card_figures(summary),
        "## Limits\n\n" + _bullets(about.limits or ("Other data than that above is unproven.",)),
        "## How to reproduce it\n\n" + _reproduce(config, summary, facts),
        f"## Licence\n\n{name}, see LICENSE. {about.attribution}".rstrip(),
    ]
    if about.references:
        sections.append("## References\n\n" + _bullets(about.references))
    return "\n\n".join(sections) + "\n"


def _gives(config: TrainingConfig, facts: Mapping[str, Any]) -> str:
    """What goes in and what comes out, a sentence or more per head."""
    network = config.network
    specs = modalities_of(config)
    modalities = ", ".join(spec.name + ("" if spec.required else " (may be missing)") for spec in specs)
    parts = [f"Input: {modalities}; read at {_spacing(config)}."]
    if any(not spec.required for spec in specs):
        parts.append("One modality at least has to be there.")
    if network.classes:
        names = ", ".join(structure.name for structure in config.data.structures)
        parts.append(
            f"Output, on the input's grid: {names}; total, aleatoric and epistemic uncertainty in nats; the"
            " variance of each structure; a calibrated error probability."
        )
    if network.classification is not None:
        classes = ", ".join(target.name for target in config.data.targets)
        parts.append(f"Output for the whole image: calibrated probabilities of {classes}.")
    task = config.tasks.reconstruction
    if network.reconstruction is not None and task is not None:
        what = (
            f"undersampled k-space ({', '.join(f'{factor:g}×' for factor in task.accelerations)})"
            if task.operator == "kspace"
            else f"noise (up to {task.sigma[1]:g} standard deviations of the image)"
        )
        parts.append(f"Output: the image, freed from the effects of {what}.")
    if facts.get("atlas"):
        parts.append("With it comes the atlas of its classes, learned from the training masks alone.")
    return " ".join(parts)


def _spacing(config: TrainingConfig) -> str:
    spacing = config.preprocess.spacing_mm
    if not any(spacing):
        return "its own spacing"
    return " × ".join("as given" if side is None else f"{side:g}" for side in spacing) + " mm"


def _data_facts(config: TrainingConfig, summary: Mapping[str, Any]) -> str:
    total = summary["fitted_cases"] + len(summary["inner"]) + len(summary["held_out"])
    return (
        f"{total} cases: {summary['fitted_cases']} fitted, {len(summary['inner'])} kept aside to choose the"
        f" temperature, {len(summary['held_out'])} held out for the figures below (fold {summary['fold']} of"
        f" {summary['folds']}; their names are in `configs/metadata.json`)."
    )


def _reproduce(config: TrainingConfig, summary: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    file = f"training/configs/{config.name}.yaml"
    common = f"{file} --data DATA --output runs/{config.name}"
    fold = f" --fold {summary['fold']}" if summary["fold"] else ""
    options = f" --samples {summary['samples']} --weights {summary['weights']}"
    options += " --subsets" if "subsets" in summary else ""
    into = "Resources/Models" if licence_of(config).ships else "models"
    changed = f" --set optimiser.steps={facts['steps']}" if facts["steps"] != config.optimiser.steps else ""
    return (
        f"    python -m training fit {common}{fold}{changed}\n"
        f"    python -m training evaluate {common}{options}\n"
        f"    python -m training export {common} --into {into} --replace\n\n"
        f"{facts['steps_done']} steps of {facts['batch']} patches, seed {facts['seed']}; the averaged"
        " weights are the ones stored, as float16."
        + (
            f" `DATA` is the unpacked {config.data.release}; an empty folder gets it downloaded. The"
            " folds depend on which cases are there: `configs/metadata.json` counts and names the ones here."
            if config.data.release
            else ""
        )
    )


def _bullets(texts: tuple[str, ...]) -> str:
    return "\n".join(f"- {text}" for text in texts)
