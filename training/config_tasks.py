# SPDX-License-Identifier: Apache-2.0
"""What a fit minimises: the tasks of the heads, and the terms of the objective beside them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A part of a configuration: it cannot be changed, and knows no names but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ReconstructionTask(Section):
    """The network reads a degraded image and is asked for the clean one; equations (20, 21), tasks 3 and 4.

    Attributes:
        weight: of its loss in the sum over tasks.
        operator: "denoising" adds Gaussian noise; "kspace" leaves out lines of k-space.
        sigma: least and greatest noise, in standard deviations of the image; drawn per patch.
        accelerations: how many times fewer lines than the full k-space; one of them is drawn per patch.
        centre_fraction: share of the lines, in the middle of k-space, that is always kept.
        error: norm of the error that is minimised.
        consistency: weight of ||x_obs - F(f(x_obs))||^2 against the distance to the clean image, 1.
        complex: whether images are complex, their real and imaginary part being the network's two channels; a
            single modality gets an imaginary part of zero. What was measured is then kept exactly. Without
            it, "kspace" degrades each modality for itself and the network reads the real part.
        coil: share of complex patches that are made to look as one receiver coil sees them, before anything
            is left out; see `training.coil`.
        share: share of patches that are degraded. Beside another task, the rest is read as it is.
    """

    weight: float = Field(default=1.0, gt=0.0)
    operator: Literal["denoising", "kspace"] = "denoising"
    sigma: tuple[float, float] = (0.1, 0.5)
    accelerations: tuple[float, ...] = Field(default=(4.0, 8.0), min_length=1)
    centre_fraction: float = Field(default=0.08, gt=0.0, lt=1.0)
    error: Literal["l1", "l2"] = "l1"
    consistency: float = Field(default=0.1, ge=0.0)
    complex: bool = False
    coil: float = Field(default=0.0, ge=0.0, le=1.0)
    share: float = Field(default=1.0, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _ranges(self) -> ReconstructionTask:
        low, high = self.sigma
        if not 0.0 <= low <= high:
            raise ValueError(f"sigma: expected two rising numbers of at least 0, got {list(self.sigma)}")
        if self.coil > 0.0 and not self.complex:
            raise ValueError("coil: expected complex images, got complex false")
        for factor in self.accelerations:
            if factor <= 1.0:
                raise ValueError(f"accelerations: expected factors above 1, got {list(self.accelerations)}")
            if self.centre_fraction * factor > 1.0:
                raise ValueError(
                    f"centre_fraction: expected at most 1/{factor:g}, the lines that an acceleration of "
                    f"{factor:g} leaves, got {self.centre_fraction:g}"
                )
        return self


class TasksConfig(Section):
    """Weights of the tasks; each counts if the network has the head for it.

    Attributes:
        segmentation: weight of Dice and cross-entropy.
        classification: weight of the cross-entropy of the case's class.
        reconstruction: settings of that task; needed with a reconstruction head and not allowed without.
    """

    segmentation: float = Field(default=1.0, gt=0.0)
    classification: float = Field(default=1.0, gt=0.0)
    reconstruction: ReconstructionTask | None = None


class CutTerm(Section):
    """The prior on the border between two structures that meet in one plane.

    Attributes:
        weight: of the term as a whole.
        shares: of the divergence of the slices' shares within it, as `DIANetLib.losses.cut.CutWeights`.
        single: of slices in which both classes are mixed.
        position: of the cut's usual place.
        structures: keys of the two structures.
        axis: of the image, across the plane.
    """

    weight: float = Field(default=0.25, gt=0.0)
    shares: float = Field(default=0.05, ge=0.0)
    single: float = Field(default=0.02, ge=0.0)
    position: float = Field(default=0.01, ge=0.0)
    structures: tuple[str, str]
    axis: Literal["i", "j", "k"] = "j"


class AdversarialTerm(Section):
    """The discriminator between latents and draws of the prior, equation (15).

    Attributes:
        weight: of the encoder's loss once warmed up.
        start: step at which the encoder begins to play against the discriminator, which learns from step 0.
        length: steps over which the weight then rises to its full value.
        learning_rate: of the discriminator; constant.
        width: hidden channels of the discriminator.
        vectors: latent vectors read per step, at most.
    """

    weight: float = Field(gt=0.0)
    start: int = Field(default=200, ge=0)
    length: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0.0)
    width: int = Field(default=64, ge=1)
    vectors: int = Field(default=512, ge=2)


class ObjectiveConfig(Section):
    """Weights of the terms of the loss beside the tasks; a weight of 0 leaves the term out.

    Attributes:
        logit_draws: draws of the Gaussian logit, (32).
        rarity_power: cross-entropy weights are class frequencies to the power of minus this.
        kl_weight: of the divergence of h from its prior, (12, 13).
        kl_free_nats: divergence per dimension that costs nothing.
        total_correlation: of the dependence between the dimensions of h; needs `network.latent.rank`.
        anatomy: of the divergence of P(h) from the labels' own shares on its grid: the latent path's task.
        domain_l2: lambda_1, of ||P(h) - atlas||^2, (11).
        domain_l1: lambda_2, of |P(h) - atlas|, (14).
        spatial_prior: of the divergence of the segmentation from the atlas.
        cut: the prior on a planar border, or None.
        adversarial: alignment of the latents with their prior, (15), or None.
        fade: share of the fit's end over which the anatomical and adversarial terms fall to zero, so that the
            tasks have the last word; 0 keeps them to the end.
    """

    logit_draws: int = Field(default=4, ge=2)
    rarity_power: float = Field(default=0.0, ge=0.0, le=1.0)
    kl_weight: float = Field(default=1e-3, ge=0.0)
    kl_free_nats: float = Field(default=0.1, ge=0.0)
    total_correlation: float = Field(default=0.0, ge=0.0)
    anatomy: float = Field(default=0.0, ge=0.0)
    domain_l2: float = Field(default=0.0, ge=0.0)
    domain_l1: float = Field(default=0.0, ge=0.0)
    spatial_prior: float = Field(default=0.0, ge=0.0)
    cut: CutTerm | None = None
    adversarial: AdversarialTerm | None = None
    fade: float = Field(default=0.0, ge=0.0, le=1.0)

    def strength(self, progress: float) -> float:
        """Factor of the anatomical and adversarial weights where `progress` (0 to 1) of the fit is done."""
        return 1.0 if self.fade == 0.0 else min(1.0, (1.0 - progress) / self.fade)

    @property
    def needs_atlas(self) -> bool:
        """Whether a term compares with the probability atlas of the training masks."""
        return max(self.domain_l2, self.domain_l1, self.spatial_prior) > 0.0
