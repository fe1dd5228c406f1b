# SPDX-License-Identifier: Apache-2.0
"""The model card and the licence notice of a bundle, from the configuration and the evaluation's summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from DIANetLib.errors import ConfigError
from training.config import TrainingConfig

#: Licences that weights may come under: name and address.
LICENCES: Mapping[str, tuple[str, str]] = {
    "CC-BY-SA-3.0": (
        "Creative Commons Attribution-ShareAlike 3.0 Unported",
        "https://creativecommons.org/licenses/by-sa/3.0/",
    ),
    "CC-BY-SA-4.0": (
        "Creative Commons Attribution-ShareAlike 4.0 International",
        "https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    "CC-BY-4.0": (
        "Creative Commons Attribution 4.0 International",
        "https://creativecommons.org/licenses/by/4.0/",
    ),
    "CC0-1.0": ("CC0 1.0 Universal", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "Apache-2.0": ("Apache License, Version 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
}

_INTENDED_USE = "Research on images like those it was fitted on."
_EXPLAINED = {
    "error_auroc_total": "error AUROC of the total uncertainty",
    "error_auroc_epistemic": "error AUROC of the epistemic uncertainty",
    "error_auroc_error_probability": "error AUROC of the error probability",
    "error_auroc_plain": "error AUROC of one plain pass's softmax entropy",
    "normalised_aurc_total": "normalised AURC of the total uncertainty",
    "normalised_aurc_plain": "normalised AURC of one plain pass's softmax entropy",
    "ece_before": "ECE before temperature",
    "ece": "ECE after temperature",
}


def licence_notice(config: TrainingConfig) -> str:
    """Text of the bundle's LICENSE: name, address, attribution, no warranty.

    Raises:
        ConfigError: if the configuration names a licence that is not known here.
    """
    if config.licence not in LICENCES:
        raise ConfigError(
            f"licence: expected one of {', '.join(LICENCES)}, got {config.licence!r}.",
            remedy="Choose one that the data's licence allows.",
        )
    name, address = LICENCES[config.licence]
    parts = [
        f"The model {config.name!r}: its weights and the other files in this folder",
        "Copyright (c) The DIANet contributors",
        f"Licensed under the {name} licence ({config.licence}).\nThe full text is at {address}legalcode"
        if "creativecommons" in address
        else f"Licensed under the {name}.\nThe full text is at {address}",
        f"Derived from: {config.about.attribution}" if config.about.attribution else "",
        "Changes: a neural network was fitted on the images and labels; none of them is contained in this"
        " folder.",
        "Provided as it is, without warranty of any kind. For research use only, not a medical device.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def model_card(config: TrainingConfig, summary: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Text of the bundle's docs/README.md.

    Args:
        config: the fit's configuration.
        summary: the evaluation's summary.json.
        facts: how the weights came about, as the bundle's metadata holds it.
    """
    about = config.about
    name, address = LICENCES[config.licence]
    sections = [
        f"# {config.name}\n\n{config.description} Version {config.version}.",
        "**For research use only. This is not a medical device; it is not cleared or approved for diagnosis"
        " or treatment.**",
        f"## What it is for\n\n{about.intended_use or _INTENDED_USE}",
        "## What it gives\n\n" + _structures(config),
        f"## Data\n\n{about.data or 'See the licence notice.'}\n\n" + _data_facts(config, summary),
        "## How good it is on cases it was not fitted on\n\n" + _figures(summary),
        "## Limits\n\n" + _bullets(about.limits or ("Other data than that above is unproven.",)),
        "## How to reproduce it\n\n" + _reproduce(config, summary, facts),
        f"## Licence\n\n[{name}]({address}), see LICENSE. {about.attribution}".rstrip(),
    ]
    if about.references:
        sections.append("## References\n\n" + _bullets(about.references))
    return "\n\n".join(sections) + "\n"


def _structures(config: TrainingConfig) -> str:
    names = ", ".join(structure.name for structure in config.data.structures)
    modalities = ", ".join(modality.name for modality in config.data.modalities)
    spacing = " × ".join("as given" if s is None else f"{s:g}" for s in config.preprocess.spacing_mm)
    return (
        f"Input: {modalities}; read at {spacing} mm. Output, on the input's grid: {names}; total, aleatoric"
        " and epistemic uncertainty in nats; the variance of each structure; a calibrated error probability."
    )


def _data_facts(config: TrainingConfig, summary: Mapping[str, Any]) -> str:
    total = summary["fitted_cases"] + len(summary["inner"]) + len(summary["held_out"])
    return (
        f"{total} cases: {summary['fitted_cases']} fitted, {len(summary['inner'])} kept aside to choose the"
        f" temperature, {len(summary['held_out'])} held out for the figures below (fold {summary['fold']} of"
        f" {summary['folds']}; their names are in `configs/metadata.json`)."
    )


def _figures(summary: Mapping[str, Any]) -> str:
    figures, structures = summary["figures"], summary["structures"]
    rows = ["| structure | Dice | 95 % interval | HD95 mm | NSD at 1 mm |", "|---|---|---|---|---|"]
    for key, part in {**structures, "**mean**": figures}.items():
        rows.append(
            f"| {key} | {_number(part['dice']['mean'], 4)} ± {_number(part['dice']['sd'], 4)}"
            f" | {_interval(part['dice'])} | {_number(part['hd95_mm']['mean'], 2)}"
            f" | {_number(part['nsd_1mm']['mean'], 4)} |"
        )
    table = ["| figure | mean over cases | 95 % interval | pooled voxels |", "|---|---|---|---|"]
    for name, text in _EXPLAINED.items():
        table.append(
            f"| {text} | {_number(figures[name]['mean'], 4)} | {_interval(figures[name])}"
            f" | {_number(summary['pooled'].get(name), 4)} |"
        )
    parts = [
        f"n = {summary['cases']} cases, T = {summary['samples']} stochastic passes, temperature"
        f" {summary['temperature']:.3f}, seed {summary['seed']}. Mean ± standard deviation over cases;"
        " intervals are bootstrapped over cases. Computed with these weights by the engine that"
        " `dianet segment` runs.",
        "\n".join(rows),
        "Judged over the voxels within three of the reference or of the segmentation:",
        "\n".join(table),
    ]
    latent = summary.get("latent")
    if latent:
        parts.append(
            f"The Gaussian latent h holds {latent['kl']:.2f} nats per position"
            f" ({latent['active_dimensions']} of {len(latent['kl_per_dimension'])} dimensions above 0.01);"
            f" with another case's h, Dice changes by {latent['dice_change_when_shuffled']:+.4f}."
        )
    return "\n\n".join(parts)


def _reproduce(config: TrainingConfig, summary: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    file = f"training/configs/{config.name}.yaml"
    common = f"{file} --data DATA --output runs/{config.name}"
    fold = f" --fold {summary['fold']}" if summary["fold"] else ""
    options = f" --samples {summary['samples']} --weights {summary['weights']}"
    changed = f" --set optimiser.steps={facts['steps']}" if facts["steps"] != config.optimiser.steps else ""
    return (
        f"    python -m training fit {common}{fold}{changed}\n"
        f"    python -m training evaluate {common}{options}\n"
        f"    python -m training export {common} --into Resources/Models --replace\n\n"
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


def _interval(part: Mapping[str, Any]) -> str:
    if not part.get("interval_95"):
        return ""
    low, high = part["interval_95"]
    return f"{_number(low, 4)} to {_number(high, 4)}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
