# SPDX-License-Identifier: Apache-2.0
"""A model folder as something to fit further: its configuration as a fit's, and its weights."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from DIANetLib.bundle import LoadedModel
from DIANetLib.errors import InputError
from training.config import DataConfig, TrainingConfig, parse_config
from training.finetune_config import FinetuneConfig


def config_of(model: LoadedModel, settings: FinetuneConfig, data: DataConfig | None = None) -> TrainingConfig:
    """The configuration of a fit of a model folder's network on images prepared as it prepares them.

    Args:
        model: the model folder.
        settings: patch and augmentation.
        data: how other cases are laid out; None for images/ and labels/ with the model's own values.

    Raises:
        InputError: the model segments nothing, or also reconstructs.
        ConfigError: settings and model do not fit together.
    """
    section = model.metadata.dianet
    if not model.structures or model.reconstruction is not None:
        raise InputError(
            f"The model {model.name!r} cannot learn from corrections: expected one that segments"
            f"{', and reconstructs nothing' if model.structures else ''}.",
            remedy="Give a segmentation model.",
        )
    augment = settings.augment.model_dump(mode="json")
    if any(structure.side or structure.key.endswith(("_left", "_right")) for structure in model.structures):
        augment["mirror_axes"] = []  # a mirrored left structure would be a right one
    elif model.network_config.spatial_dims == 2:
        augment["mirror_axes"] = [axis for axis in augment["mirror_axes"] if axis > 0]
    fitted = section.training.get("patch")
    patch = settings.patch or (tuple(fitted) if isinstance(fitted, list) and len(fitted) == 3 else None)
    own = {
        "modalities": [
            {"name": spec.name, "aliases": list(spec.aliases), "required": spec.required}
            for spec in model.modalities
        ],
        "structures": [
            {
                "key": structure.key,
                "name": structure.name,
                "color": list(structure.color),
                "source_values": [structure.value],
                "type": _code(structure.type),
            }
            for structure in model.structures
        ],
        "targets": [{"key": entry.key, "name": entry.name} for entry in model.classes],
    }
    if data is not None:
        theirs = [structure.key for structure in data.structures]
        ours = [structure.key for structure in model.structures]
        if theirs != ours:
            raise InputError(
                f"The data to rehearse has the structures {', '.join(theirs) or 'none'}, expected those of"
                f" the model {model.name!r}: {', '.join(ours)}.",
                remedy="Give the configuration that the model was fitted with.",
            )
    return parse_config(
        {
            "name": re.sub(r"[^a-z0-9-]+", "-", model.name.lower()),
            "description": model.metadata.description,
            "version": model.version,
            "data": own if data is None else data.model_dump(mode="json"),
            "network": model.network_config.model_dump(mode="json"),
            "preprocess": model.preprocess.model_dump(mode="json"),
            "patch": list(patch or model.window),
            "window": list(model.window),
            "augment": augment,
            "optimiser": {"steps": settings.steps, "batch": settings.rows},
            "seed": settings.seed,
        },
        f"of the model {model.name}",
    )


def weights_of(model: LoadedModel) -> dict[str, Tensor]:
    """The weights of a model folder, float32 on the CPU."""
    return {
        name: value.detach().float().cpu().clone() for name, value in model.network().state_dict().items()
    }


def _code(code: Any) -> dict[str, str]:
    return {"scheme": code.scheme, "value": code.value, "meaning": code.meaning}
