# SPDX-License-Identifier: Apache-2.0
"""The arms of an ablation: N1 (encoder and decoder alone), N1 with each block or term, and with all.

Each arm's settings are those of the configuration where it has the part, else the defaults here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from DIANetLib.errors import ConfigError
from training.config import TrainingConfig, parse_config

#: The arm that all are compared with, and the one that has everything.
REFERENCE, EVERYTHING = "n1", "all"

_OFF_NETWORK: dict[str, Any] = {
    "latent": None,
    "codebook": None,
    "diffuser": None,
    "pyramid": None,
    "attention": None,
    "reliable_path": None,
    "modality_fusion": None,
    "heteroscedastic": False,
    "classification": None,
    "reconstruction": None,
}
_OFF_OBJECTIVE: dict[str, Any] = {
    "total_correlation": 0.0,
    "anatomy": 0.0,
    "domain_l2": 0.0,
    "domain_l1": 0.0,
    "spatial_prior": 0.0,
    "cut": None,
    "adversarial": None,
}
# `objective.fade` stays as it is: it concerns the terms of any arm.


@dataclass(frozen=True)
class Arm:
    """What an arm adds to N1.

    Attributes:
        name: for the command line and folders.
        part: the row of SPEC and what it is.
        network: fields of `NetworkConfig`.
        objective: fields of `ObjectiveConfig`.
        reconstruction: the auxiliary task, or None.
    """

    name: str
    part: str
    network: Mapping[str, Any]
    objective: Mapping[str, Any]
    reconstruction: Mapping[str, Any] | None = None


def arms_of(config: TrainingConfig) -> dict[str, Arm]:
    """The arms that a configuration allows, by name, in the order of the table.

    Raises:
        ConfigError: if it has no segmentation head.
    """
    network, objective = config.network, config.objective
    if not network.classes:
        raise ConfigError(
            "an ablation compares segmentations: expected network.classes above 0, got 0.",
            remedy="Give the configuration of a model that segments.",
        )
    latent = {"channels": 32, "path_dropout": 0.0}
    if network.latent is not None:
        taken = {"channels", "path_dropout", "skip_dropout"}
        latent = network.latent.model_dump(mode="json", include=taken)
    rank = network.latent.rank if network.latent is not None and network.latent.rank else 4

    def block(name: str) -> dict[str, Any]:
        given = getattr(network, name)
        return {name: {} if given is None else given.model_dump(mode="json")}

    def weight(name: str, default: float) -> dict[str, float]:
        return {name: getattr(objective, name) or default}

    found = [
        Arm(REFERENCE, "N1: encoder and decoder alone", {}, {}),
        Arm("latent", "N5: Gaussian latent", {"latent": latent}, {}),
        Arm(
            "latent-rank",
            f"N5: latent with Sigma of rank {rank} beside its diagonal",
            {"latent": {**latent, "rank": rank}},
            weight("total_correlation", 1e-3),
        ),
        Arm("codebook", "N6: CodeBook on the latent", {"latent": latent, **block("codebook")}, {}),
        Arm("diffuser", "N7: diffuser on the latent", {"latent": latent, **block("diffuser")}, {}),
        Arm("pyramid", "N3: feature pyramid", block("pyramid"), {}),
        Arm("attention", "N4: attention per scale", block("attention"), {}),
        Arm(
            "reliable-path",
            "N11: most reliable path",
            {**block("reliable_path"), "deep_supervision": max(1, network.deep_supervision)},
            {},
        ),
        Arm(
            "latent-path",
            "N5, N11: P(h) learns the labels and is one of the fused paths",
            {**block("reliable_path"), "latent": {**latent, "anatomy": True}},
            weight("anatomy", 0.25),
        ),
        Arm("heteroscedastic", "N9: logit variance", {"heteroscedastic": True}, {}),
        Arm(
            "domain",
            "O2: domain regulariser on P(h)",
            {"latent": {**latent, "anatomy": True}},
            {**weight("domain_l2", 0.1), **weight("domain_l1", 0.1)},
        ),
        Arm("spatial-prior", "O3: divergence from the atlas", {}, weight("spatial_prior", 0.02)),
        Arm("cut", "O3: prior on the cut", {}, {"cut": _cut(config)}),
        Arm(
            "adversarial",
            "O4: adversarial latent",
            {"latent": latent},
            {"adversarial": _dump(objective.adversarial) or {"weight": 0.01}},
        ),
        Arm(
            "reconstruction",
            "N10: reconstruction beside segmentation",
            block("reconstruction"),
            {},
            _dump(config.tasks.reconstruction) or {"weight": 0.2, "sigma": [0.1, 0.5], "share": 0.15},
        ),
        Arm("fusion", "N2: stems and fusion of modalities", block("modality_fusion"), {}),
    ]
    left_out = set()
    if _cut(config) is None:
        left_out.add("cut")
    if network.modalities < 2:
        left_out.add("fusion")
    chosen = [arm for arm in found if arm.name not in left_out]
    return {arm.name: arm for arm in [*chosen, _everything(chosen)]}


def arm_config(config: TrainingConfig, arm: Arm, *, seed: int, steps: int | None) -> TrainingConfig:
    """The configuration of an arm: the given one with every part off but the arm's.

    Raises:
        ConfigError: if the arm does not fit the rest of the configuration.
    """
    data = config.model_dump(mode="json")
    data["network"] |= {**_OFF_NETWORK, **arm.network}
    data["objective"] |= {**_OFF_OBJECTIVE, **arm.objective}
    data["tasks"]["reconstruction"] = None if arm.reconstruction is None else dict(arm.reconstruction)
    data["data"]["targets"] = []
    data |= {"baseline": None, "seed": seed}
    data["optimiser"]["steps"] = steps or config.optimiser.steps
    data["validate_every"] = data["optimiser"]["steps"]  # once, at the end: an arm is compared there
    return parse_config(data, f"of the arm {arm.name}")


def chosen_arms(arms: Mapping[str, Arm], names: Sequence[str] | None) -> list[Arm]:
    """The arms of those names, in the order of the table; all of them without names.

    Raises:
        ConfigError: for a name that no arm has.
    """
    unknown = [name for name in names or () if name not in arms]
    if unknown:
        raise ConfigError(f"arms: expected some of {', '.join(arms)}, got {', '.join(unknown)}.")
    return [arm for arm in arms.values() if not names or arm.name in names]


def _everything(arms: Iterable[Arm]) -> Arm:
    network: dict[str, Any] = {}
    objective: dict[str, Any] = {}
    reconstruction = None
    for arm in arms:
        latent = {**network.get("latent", {}), **arm.network.get("latent", {})}
        network |= arm.network
        if latent:
            network["latent"] = latent
        objective |= arm.objective
        reconstruction = arm.reconstruction or reconstruction
    return Arm(EVERYTHING, "all of them", network, objective, reconstruction)


def _cut(config: TrainingConfig) -> dict[str, Any] | None:
    """The configuration's cut, or one between its two structures, or None where there are not just two."""
    given = _dump(config.objective.cut)
    keys = [structure.key for structure in config.data.structures]
    return given or ({"structures": keys} if len(keys) == 2 else None)


def _dump(section: Any) -> dict[str, Any] | None:
    return None if section is None else dict(section.model_dump(mode="json"))
