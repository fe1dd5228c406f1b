# SPDX-License-Identifier: Apache-2.0
"""Predictive uncertainty from stochastic samples: paper section 3.4, equations 31 to 35.

Two remarks on the printed equations. The sentence after eq. 33 is inverted: HIGH entropy means LOW
confidence. Eq. 35 lacks its minus sign and is a sum over voxels: here the voxel map is the result, and its
mean over a structure is the summary (`structure_uncertainty`).

The maps are named by their formula, with p_t the probabilities of sample t and H the entropy in nats:

    total            H(mean_t p_t)                   eq. 33
    aleatoric        mean_t H(p_t)
    epistemic        total - aleatoric               mutual information (Houlsby et al. 2011, BALD)
    variance         mean_t p_t^2 - (mean_t p_t)^2   eq. 34, one map per class
    heteroscedastic  mean over samples and classes of the predicted logit variance, eq. 32

Axes: T samples, N samples of one update, K classes (background included), *S spatial axes of any number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from DIANetLib.acwi.pooling import PooledFeatures
from DIANetLib.errors import DIANetError

# Rows of this many values per thread stay in the second-level cache and are still above the size (32768)
# under which torch does not share an element-wise operation among threads.
_VALUES_PER_THREAD = 65536


@dataclass(frozen=True, eq=False)
class UncertaintyMaps:
    """Uncertainty of one prediction; every entropy is in nats, between 0 and ln K.

    Attributes:
        mean_probability: (K, *S) mean of the samples' probabilities.
        total: (*S) entropy of the mean, eq. 33; never below `aleatoric`.
        aleatoric: (*S) mean of the samples' entropies.
        epistemic: (*S) total - aleatoric, never negative; zero for a single sample.
        variance: (K, *S) population variance of the probabilities over the samples, eq. 34; never negative.
        heteroscedastic: (*S) mean logit variance, or None where the network gave none.
        samples: number of samples, T.
        overlaps: (K, T, T) voxels that two samples both give a class (`DIANetLib.acwi.agreement`), int64 on
            the CPU; None for less than two samples.
        pooled: what the encoder saw, pooled over the image; None where nobody asked for it.
        error: (*S) probability that the most probable class is wrong, where a one-pass head told all of this
            from one mean pass; None elsewhere.
    """

    mean_probability: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    variance: Tensor
    heteroscedastic: Tensor | None
    samples: int
    overlaps: Tensor | None = None
    pooled: PooledFeatures | None = None
    error: Tensor | None = None

    @property
    def has_parts(self) -> bool:
        """Whether epistemic uncertainty and variance are known: from several samples, or a one-pass head."""
        return self.samples > 1 or self.error is not None


def entropy(probabilities: Tensor, dim: int = 0) -> Tensor:
    """Entropy in nats, eq. 33: -sum_c p_c ln p_c, with 0 ln 0 = 0.

    Args:
        probabilities: floating point, sums to one along `dim`.
        dim: the class axis, which the result lacks.

    Returns:
        Entropy, 0 (certain) to ln K (all classes alike); NaN where a probability is NaN.
    """
    # Three times faster on CPUs than torch.special.entr and xlogy, whose kernels are not vectorised there.
    logarithm = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log_()
    return logarithm.mul_(probabilities).sum(dim).neg_().clamp_min_(0.0)


def mutual_information(samples: Tensor, sample_dim: int = 0, class_dim: int = 1) -> Tensor:
    """Epistemic uncertainty in nats: entropy of the mean minus mean of the entropies, not below zero.

    Args:
        samples: probabilities with a sample axis and a class axis, by default (T, K, *S).
        sample_dim: the sample axis.
        class_dim: the class axis.

    Returns:
        (*S) mutual information between the class and the sample, 0 to ln K.
    """
    mean = samples.mean(sample_dim, keepdim=True)
    total = entropy(mean, class_dim).squeeze(_without(sample_dim, class_dim, samples.ndim))
    aleatoric = entropy(samples, class_dim).mean(_without(sample_dim, class_dim, samples.ndim))
    return (total - aleatoric).clamp_min_(0.0)


def class_variance(samples: Tensor, sample_dim: int = 0) -> Tensor:
    """Population variance of the probabilities over the samples, eq. 34: E[y^2] - (E[y])^2.

    Args:
        samples: probabilities with a sample axis, by default (T, K, *S).
        sample_dim: the sample axis, which the result lacks.

    Returns:
        (K, *S) variance, 0 to 0.25.
    """
    return samples.var(sample_dim, correction=0)


def structure_uncertainty(uncertainty: Tensor, mask: Tensor) -> float | None:
    """Mean of a voxel map over a structure: the summary that eq. 35 (a sum) stands for here.

    Args:
        uncertainty: (*S) map, for instance `UncertaintyMaps.total`.
        mask: (*S) bool, the voxels of the structure.

    Returns:
        The mean in the map's unit, or None where the structure is empty.
    """
    return float(uncertainty[mask].mean(dtype=torch.float64)) if bool(mask.any()) else None


class RunningUncertainty:
    """Uncertainty maps from samples that arrive a few at a time, none of which is kept.

    Keeps sums of p, of p^2 and of the entropy: 2 K + 1 values a voxel, however many samples there are.
    Adding samples one by one or in batches gives the same bits.

    Args:
        shape: (K, *S) of one sample's probabilities.
        like: tensor whose device the sums live on; they are float64 if it is, else float32. None: CPU.
    """

    def __init__(self, shape: Sequence[int], like: Tensor | None = None) -> None:
        self.shape = tuple(int(n) for n in shape)
        if len(self.shape) < 2 or min(self.shape) < 1:
            raise ValueError(f"expected a shape (classes, *spatial) of positive sizes, got {self.shape}")
        self.samples = 0
        device = torch.device("cpu") if like is None else like.device
        dtype = torch.float64 if like is not None and like.dtype == torch.float64 else torch.float32
        voxels = math.prod(self.shape[1:])
        step = _VALUES_PER_THREAD * torch.get_num_threads() if device.type == "cpu" else voxels
        self._parts = [slice(start, min(start + step, voxels)) for start in range(0, voxels, step)]
        # Sums made in inference mode could not be added to outside it.
        with torch.inference_mode(False):
            self._sum = torch.zeros((self.shape[0], voxels), dtype=dtype, device=device)
            self._sum_of_squares = torch.zeros_like(self._sum)
            self._entropy = torch.zeros(voxels, dtype=dtype, device=device)
            self._scratch = torch.empty(self._parts[0].stop if device.type == "cpu" else 0, dtype=dtype)
            self._logit_variance: Tensor | None = None
        self._finished = False

    @torch.no_grad()
    def update(self, probabilities: Tensor, heteroscedastic_variance: Tensor | None = None) -> None:
        """Add N samples.

        Args:
            probabilities: (N, K, *S), each sample summing to one over K. Not checked: this is the inner loop.
            heteroscedastic_variance: (N, K, *S) variance (not its logarithm) of the logits, in every
                update or in none.

        Raises:
            ValueError: another shape than promised, or variances in some updates only.
            RuntimeError: `finish` was called before.
        """
        if self._finished:
            raise RuntimeError("no sample can be added after finish(), which reuses the sums; make a new one")
        self._check_shape("probabilities", probabilities)
        if heteroscedastic_variance is not None:
            self._check_shape("heteroscedastic_variance", heteroscedastic_variance)
        if self.samples and (heteroscedastic_variance is None) != (self._logit_variance is None):
            raise ValueError("expected heteroscedastic_variance in every update or in none of them")

        for sample in probabilities:
            self._add(sample.reshape(self._sum.shape).to(self._sum.dtype))
        if heteroscedastic_variance is not None:
            if self._logit_variance is None:
                with torch.inference_mode(False):
                    self._logit_variance = torch.zeros_like(self._entropy)
            for variance in heteroscedastic_variance:
                for row in variance.reshape(self._sum.shape):
                    self._logit_variance.add_(row)
        self.samples += int(probabilities.shape[0])

    @torch.no_grad()
    def finish(self) -> UncertaintyMaps:
        """Turn the sums into maps, in place: no further sample can be added.

        Raises:
            DIANetError: a probability was not finite.
            RuntimeError: no sample was added, or called twice.
        """
        if self._finished or not self.samples:
            raise RuntimeError("finish() needs at least one sample and can be called once")
        self._finished = True
        classes, spatial = self.shape[0], self.shape[1:]
        mean = self._sum.div_(self.samples)
        aleatoric = self._entropy.div_(self.samples).clamp_min_(0.0)
        total = aleatoric.clone()
        if self.samples > 1:
            total.zero_()
            for part in self._parts:
                self._add_entropy(mean[:, part], total[part])
            # Jensen's inequality holds for the exact values; rounding may break it by some 1e-7.
            torch.maximum(total, aleatoric, out=total)
        if not bool(torch.isfinite(total).all()):
            raise DIANetError(
                "the network returned probabilities that are not finite numbers.",
                remedy="Run on another device or in full precision, and check the image's intensities.",
            )
        variance = self._sum_of_squares.div_(self.samples)
        for row, mean_row in zip(variance, mean, strict=True):
            row.addcmul_(mean_row, mean_row, value=-1.0).clamp_min_(0.0)
        if self.samples == 1:
            variance.zero_()
        heteroscedastic = None
        if self._logit_variance is not None:
            heteroscedastic = self._logit_variance.div_(self.samples * classes).reshape(spatial)
        return UncertaintyMaps(
            mean_probability=mean.reshape(self.shape),
            total=total.reshape(spatial),
            aleatoric=aleatoric.reshape(spatial),
            epistemic=(total - aleatoric).reshape(spatial),
            variance=variance.reshape(self.shape),
            heteroscedastic=heteroscedastic,
            samples=self.samples,
        )

    def _check_shape(self, name: str, tensor: Tensor) -> None:
        if tuple(tensor.shape[1:]) != self.shape or tensor.ndim != len(self.shape) + 1:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"expected {name} of shape (N, {expected}), got {tuple(tensor.shape)}")

    def _add(self, sample: Tensor) -> None:
        for part in self._parts:
            block = sample[:, part]
            self._add_entropy(block, self._entropy[part])
            self._sum[:, part].add_(block)
            self._sum_of_squares[:, part].addcmul_(block, block)

    def _add_entropy(self, block: Tensor, target: Tensor) -> None:
        """Add the entropy of `block` (K, V) to `target` (V)."""
        tiny = torch.finfo(block.dtype).tiny
        if block.device.type != "cpu":
            # A GPU prefers few large operations.
            target.sub_(block.clamp_min(tiny).log_().mul_(block).sum(0))
            return
        logarithm = self._scratch[: block.shape[1]]
        for row in block:
            torch.clamp_min(row, tiny, out=logarithm).log_()
            target.addcmul_(row, logarithm, value=-1.0)


def _without(sample_dim: int, class_dim: int, ndim: int) -> int:
    """Index of the sample axis after the class axis is gone."""
    sample, cls = sample_dim % ndim, class_dim % ndim
    return sample - 1 if sample > cls else sample
