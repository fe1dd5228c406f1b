# SPDX-License-Identifier: Apache-2.0
"""`configs/inference.json` of a model folder: one plain pass with MONAI's own transforms, for other tools.

It serves tools that run MONAI bundles and needs DIANet installed. MONAI's arrays are (i, j, k) after loading,
DIANet's are (k, j, i), hence the transpositions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DIANetLib.bundle_schema import DianetSection

__all__ = ["inference_config"]

_IMPORTS = ["$import pathlib", "$import torch", "$from DIANetLib.bundle import load_bundle"]


def inference_config(section: DianetSection) -> dict[str, Any]:
    """What `configs/inference.json` holds.

    A model with structures labels voxels in sliding windows and writes a labelmap; one without reads the
    whole image, padded, and prints the probabilities of its classes or writes the image that it made.

    Args:
        section: What DIANet needs to run the model.
    """
    keys = [modality.name for modality in section.modalities]
    config = {
        "imports": _IMPORTS,
        "bundle_root": ".",
        "inputs": {key: f"{key}.nii.gz" for key in keys},
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network": "$load_bundle(pathlib.Path(@bundle_root)).network(@device)",
        "preprocessing": _target("Compose", transforms=_preprocessing(section, keys)),
        "prepared": "$@preprocessing(@inputs)",
    }
    if section.structures:
        return config | _labels(section, keys)
    if section.classes:
        return config | _classes(section)
    return config | _image(section)


def _labels(section: DianetSection, keys: list[str]) -> dict[str, Any]:
    window, sides = (list(section.window[:2]), "1:3") if _flat(section) else (list(section.window), "1:")
    # As DIANet's own engine: small images are padded to what the network needs, not to the whole window.
    padded = f"min(w, round_up(n, {section.network_config().divisor}))"
    roi = f"$[{padded} for w, n in zip({window}, @prepared['image'].shape[{sides}])]"
    blended = {"roi_size": roi, "overlap": 0.5, "mode": "gaussian"}
    if _flat(section):
        inferer = _target("SliceInferer", spatial_dim=2, **blended)
    else:
        inferer = _target("SlidingWindowInferer", **blended)
    swap = _swap(section)
    inverse = _target(
        "Invertd", keys="pred", transform="@preprocessing", orig_keys=keys[0], nearest_interp=True
    )
    return {
        "imports": [
            *_IMPORTS,
            "$from DIANetLib.inference.sliding_window import round_up",
            "$from DIANetLib.labelling import labels_of_logits",
        ],
        "predictor": f"$lambda x: @network(x{swap}).segmented.mean{swap}",
        "inferer": inferer,
        "postprocessing": _target("Compose", transforms=[inverse, _saved()]),
        "logits": "$@inferer(@prepared['image'][None].to(@device), @predictor)[0]",
        "labels": "$labels_of_logits(@logits)[None]",
        "run": ["$@postprocessing({**@prepared, 'pred': @labels})"],
    }


def _classes(section: DianetSection) -> dict[str, Any]:
    return {
        "classes": [entry.key for entry in section.classes],
        "temperatures": [entry.temperature for entry in section.classes],
        "logits": f"$@network({_whole(section)}).classified.logits[0].cpu()",
        "probabilities": "$torch.softmax(@logits / torch.tensor(@temperatures), 0).tolist()",
        "run": ["$print(dict(zip(@classes, @probabilities)))"],
    }


def _image(section: DianetSection) -> dict[str, Any]:
    back = f"{_swap(section)}{'.unsqueeze(-1)' if _flat(section) else ''}"
    return {
        "made": f"$@network({_whole(section)}).reconstructed.image[0]{back}",
        "postprocessing": _target("Compose", transforms=[_saved()]),
        "run": ["$@postprocessing({**@prepared, 'pred': @made})"],
    }


def _preprocessing(section: DianetSection, keys: list[str]) -> list[dict[str, Any]]:
    config = section.preprocess_config()
    low, high = config.clip_percentiles
    # MONAI keeps an axis as it is where the spacing asked for is not positive.
    spacing = [-1.0 if wanted is None else wanted for wanted in config.spacing_mm]
    transforms = [
        _target("LoadImaged", keys=keys, ensure_channel_first=True),
        *([_target("Orientationd", keys=keys, axcodes="RAS")] if config.orientation == "RAS" else []),
        _target("Spacingd", keys=keys, pixdim=spacing, mode="bilinear"),
        _target("ClipIntensityPercentilesd", keys=keys, lower=low, upper=high),
        _target("NormalizeIntensityd", keys=keys),
        _target("ConcatItemsd", keys=keys, name="image"),
    ]
    if not section.structures:  # the whole image is read at once; 0 is the mean
        divisor = section.network_config().divisor
        pad = [divisor, divisor, 1 if _flat(section) else divisor]
        transforms.append(_target("DivisiblePadd", keys="image", k=pad))
    return transforms


def _whole(section: DianetSection) -> str:
    """The prepared image as the network reads it, (1, M, *S)."""
    flat = ".squeeze(-1)" if _flat(section) else ""
    return f"@prepared['image'][None]{flat}{_swap(section)}.to(@device)"


def _swap(section: DianetSection) -> str:
    return ".transpose(-1, -2)" if _flat(section) else ".transpose(-1, -3)"


def _flat(section: DianetSection) -> bool:
    return bool(section.network.get("spatial_dims", 3) == 2)


def _saved() -> dict[str, Any]:
    return _target("SaveImaged", keys="pred", output_dir="@output_dir", separate_folder=False)


def _target(class_name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": class_name, **arguments}
