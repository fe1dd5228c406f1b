# SPDX-License-Identifier: Apache-2.0
"""The file of a model folder that tells whether an image is like those that the model was fitted on.

Plain arrays as float32 safetensors; nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from DIANetLib.acwi.familiarity import FamiliarityModel
from DIANetLib.bundle_schema import DianetSection, FamiliaritySpec
from DIANetLib.errors import BundleError, InputError
from DIANetLib.model_folders import FAMILIARITY, REINSTALL, checked_file, first_line

__all__ = ["familiarity_file", "load_familiarity"]

_ARRAYS = ("centre", "scale", "axes", "precisions")


def familiarity_file(model: FamiliarityModel, cases: int) -> tuple[bytes, FamiliaritySpec]:
    """The content of `models/familiarity.safetensors`, and what the metadata say of it.

    Args:
        model: What was fitted.
        cases: Cases that it was fitted on.
    """
    from safetensors.numpy import save

    content = save({name: np.asarray(getattr(model, name), np.float32) for name in _ARRAYS})
    spec = FamiliaritySpec(
        levels=model.levels,
        rest=model.rest,
        cases=cases,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    return content, spec


def load_familiarity(path: Path, section: DianetSection) -> FamiliarityModel | None:
    """What the folder `path` keeps of the fitted cases; None if the metadata name nothing.

    Raises:
        BundleError: The file is missing, damaged, or another one than the metadata names.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    spec = section.familiarity
    if spec is None:
        return None
    file = checked_file(path, FAMILIARITY, spec.size_bytes, spec.sha256)
    try:
        arrays = load_file(file)
        return FamiliarityModel(
            **{name: arrays[name] for name in _ARRAYS}, rest=spec.rest, levels=spec.levels
        )
    except (SafetensorError, OSError, ValueError, KeyError, InputError) as error:
        raise BundleError(f"{file} is not readable ({first_line(error)}).", remedy=REINSTALL) from error
