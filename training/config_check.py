# SPDX-License-Identifier: Apache-2.0
"""Whether the parts of a training configuration agree: heads, tasks, objective, data and patch.

Each check says which setting is wrong, what was expected, and what it got.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from DIANetLib.errors import ConfigError
from training.degrade import check_masks

if TYPE_CHECKING:
    from training.config import TrainingConfig


def check_agreement(config: TrainingConfig) -> None:
    """Go through all checks.

    Raises:
        ValueError: at the first that fails, in a sentence.
    """
    _data(config)
    _patch(config)
    _tasks(config)
    _objective(config)
    _baseline(config)


def _data(config: TrainingConfig) -> None:
    data, network = config.data, config.network
    structures, targets = len(data.structures), len(data.targets)
    expected = structures + 1 if structures else 0
    if network.classes != expected:
        meaning = f"{structures} structures and background" if structures else "data.structures is empty"
        raise ValueError(f"network.classes: expected {expected} ({meaning}), got {network.classes}")
    classes = network.classification.classes if network.classification else 0
    if classes != targets:
        raise ValueError(
            f"network.classification.classes: expected {targets} as in data.targets, got {classes}"
        )
    task = config.tasks.reconstruction
    complex_images = task is not None and task.complex
    channels = 2 if complex_images else len(data.modalities)
    if network.modalities != channels:
        reason = "the parts of a complex image" if complex_images else "as in data.modalities"
        raise ValueError(f"network.modalities: expected {channels} ({reason}), got {network.modalities}")
    if complex_images and len(data.modalities) > 2:
        raise ValueError(
            "data.modalities: expected 1, or 2 for real and imaginary part, of complex images, "
            f"got {len(data.modalities)}"
        )
    for place, key in [(region.key, key) for region in data.regions for key in region.structures]:
        _structure(config, key, f"data.regions ({place})")


def _patch(config: TrainingConfig) -> None:
    network = config.network
    for name, size in (("patch", config.patch), ("window", config.window or config.patch)):
        used = size[: network.spatial_dims]
        if network.spatial_dims == 2 and size[2] != 1:
            raise ValueError(f"{name}: expected [i, j, 1] for a network of two dimensions, got {list(size)}")
        if any(side < 1 or side % network.divisor for side in used):
            raise ValueError(f"{name}: every side must be divisible by {network.divisor}, got {list(size)}")
    axes = (1, 2) if network.spatial_dims == 2 else (0, 1, 2)
    for axis in config.augment.mirror_axes:
        if axis not in axes:
            raise ValueError(
                f"augment.mirror_axes: expected axes of (k, j, i) out of {list(axes)} for a network of "
                f"{network.spatial_dims} dimensions, got {axis}"
            )

    if config.mirror_samples and 2 not in config.augment.mirror_axes:
        raise ValueError(
            "mirror_samples: expected a fit that saw images mirrored left to right, axis 2 of"
            f" augment.mirror_axes, got {list(config.augment.mirror_axes)}"
        )
    if config.mirror_samples and config.preprocess.orientation == "source":
        raise ValueError(
            "mirror_samples: expected images whose axes are known, got preprocess.orientation 'source'"
        )


def _tasks(config: TrainingConfig) -> None:
    network, task = config.network, config.tasks.reconstruction
    if not network.classes and network.classification is None and network.reconstruction is None:
        raise ValueError(
            "network: expected at least one head (classes, classification or reconstruction), got none"
        )
    if (network.reconstruction is None) != (task is None):
        has, lacks = ("network", "tasks") if task is None else ("tasks", "network")
        raise ValueError(
            f"{lacks}.reconstruction: expected one beside {has}.reconstruction, got none; "
            "the head and its task belong together"
        )
    if task is None:
        return
    channels = network.reconstruction.channels if network.reconstruction else None
    if channels not in (None, network.modalities):
        raise ValueError(
            f"network.reconstruction.channels: expected {network.modalities}, the channels of the clean "
            f"image, got {channels}"
        )
    if task.complex and task.operator != "kspace":
        raise ValueError(
            f"tasks.reconstruction.complex: expected the operator kspace with it, got {task.operator}"
        )
    try:
        check_masks(task, config.patch[0])
    except ConfigError as error:
        raise ValueError(str(error)) from error
    if not network.classes and network.classification is None and task.share < 1.0:
        raise ValueError(
            f"tasks.reconstruction.share: expected 1 where reconstruction is the one task, got {task.share:g}"
        )


def _objective(config: TrainingConfig) -> None:
    objective, network = config.objective, config.network
    latent = network.latent
    if objective.adversarial is not None and latent is None:
        raise ValueError("objective.adversarial: expected a network.latent to align, got none")
    if objective.total_correlation > 0 and (latent is None or latent.rank == 0):
        raise ValueError(
            "objective.total_correlation: expected network.latent.rank above 0, without which the dimensions "
            f"of h are independent, got {'no latent' if latent is None else 'rank 0'}"
        )
    for name in ("anatomy", "domain_l2", "domain_l1"):
        if getattr(objective, name) > 0 and (latent is None or not latent.anatomy):
            raise ValueError(
                f"objective.{name}: expected network.latent.anatomy, which decodes P(h), got "
                f"{'no latent' if latent is None else 'anatomy false'}"
            )
    if objective.spatial_prior > 0 and not network.classes:
        raise ValueError(
            "objective.spatial_prior: expected a segmentation head and structures to learn an atlas from, "
            "got network.classes 0"
        )
    if objective.cut is not None:
        if not network.classes:
            raise ValueError("objective.cut: expected a segmentation head, got network.classes 0")
        for key in objective.cut.structures:
            _structure(config, key, "objective.cut.structures")
        if network.spatial_dims == 2 and objective.cut.axis == "k":
            raise ValueError("objective.cut.axis: expected i or j for a network of two dimensions, got k")


def _baseline(config: TrainingConfig) -> None:
    network, kind = config.network, config.baseline
    if kind is None:
        return
    heads = [
        name
        for name, there in (
            ("segmentation", network.classes),
            ("classification", network.classification),
            ("reconstruction", network.reconstruction),
        )
        if there
    ]
    if kind == "unet" and heads not in (["segmentation"], ["reconstruction"]):
        raise ValueError(f"baseline: unet takes segmentation or reconstruction alone, got {', '.join(heads)}")
    if kind == "unet" and len(network.widths) < 3:
        raise ValueError(f"baseline: unet takes 3 network.widths or more, got {len(network.widths)}")
    if kind == "resnet18" and heads != ["classification"]:
        raise ValueError(f"baseline: resnet18 takes classification alone, got {', '.join(heads)}")
    objective = config.objective
    if objective.needs_atlas or objective.cut or objective.adversarial:
        raise ValueError("baseline: expected no term of the objective beside the task, got one")


def _structure(config: TrainingConfig, key: str, where: str) -> None:
    known = [structure.key for structure in config.data.structures]
    if key not in known:
        raise ValueError(f"{where}: expected structures out of {', '.join(known) or 'none'}, got {key}")
