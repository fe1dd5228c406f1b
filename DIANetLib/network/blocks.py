# SPDX-License-Identifier: Apache-2.0
"""Convolution blocks that the encoder and the decoder share (nnU-Net: Isensee et al., Nat Methods 2021).

Convolution, instance normalisation, leaky ReLU; residual blocks as in He et al., CVPR 2016.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """A convolution that single images do not make slow on CPUs.

    Of a batch of one with at most 20,480 values a row (channels x k x j, which coarse scales of a crop stay
    below) PyTorch keeps oneDNN out and takes a kernel up to five times as slow (`ConvParams::use_mkldnn` in
    ATen's Convolution.cpp). What a whole pass costs with that: `Testing/benchmarks/single_image.py`. With
    gradients PyTorch chooses.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, *S) -> (N, outputs, *S')."""
        if _declined(x):
            assert not isinstance(self.padding, str)  # conv() gives numbers; for the type checker
            return torch.mkldnn_convolution(
                x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
            )
        return super().forward(x)


def _declined(x: Tensor) -> bool:
    """Whether PyTorch would not give an image to oneDNN that may as well have it."""
    return (
        len(x) == 1
        and x.dtype is torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


_CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: Conv3d}
_CONV_TRANSPOSE: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


def conv(
    spatial_dims: int, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, bias: bool = True
) -> nn.Conv2d | nn.Conv3d:
    """A "same" convolution: (N, inputs, *S) -> (N, outputs, *(S / stride))."""
    return _CONV[spatial_dims](inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias)


class _Pointwise2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return _mix_channels(self, x) if not torch.is_grad_enabled() else super().forward(x)


class _Pointwise3d(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return _mix_channels(self, x) if not torch.is_grad_enabled() else super().forward(x)


def _mix_channels(layer: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    return F.linear(x.movedim(1, -1), layer.weight.flatten(1), layer.bias).movedim(-1, 1)


def pointwise(spatial_dims: int, inputs: int, outputs: int) -> nn.Conv2d | nn.Conv3d:
    """A convolution of size one: (N, inputs, *S) -> (N, outputs, *S).

    Without gradients it runs as a matrix product over the channels: on one CPU thread PyTorch's own copies a
    channels-last input first, which takes ten times as long.
    """
    return (_Pointwise2d if spatial_dims == 2 else _Pointwise3d)(inputs, outputs, 1)


def conv_transpose(
    spatial_dims: int, inputs: int, outputs: int, *, stride: int
) -> nn.ConvTranspose2d | nn.ConvTranspose3d:
    """The up-sampling transposed convolution of (19): (N, inputs, *S) -> (N, outputs, *(S * stride))."""
    return _CONV_TRANSPOSE[spatial_dims](inputs, outputs, stride, stride=stride, bias=False)


class InstanceNorm(nn.Module):
    """Instance normalisation with learned scale and offset: (N, C, *S) -> same shape.

    Three routes to the same numbers, each the fastest where it is taken (measured on CPUs in channels-last):
    without gradients group norm with one channel a group, which unlike PyTorch's instance norm does not copy
    to contiguous and back; with gradients PyTorch's instance norm, since group norm's backward is slow; under
    `torch.compile` plain tensor operations, which it fuses with their neighbours.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over S, statistics in float32."""
        if not torch.compiler.is_compiling():
            if torch.is_grad_enabled():
                return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
            return F.group_norm(x, self.weight.numel(), self.weight, self.bias, self.eps)
        axes = tuple(range(2, x.ndim))
        variance, mean = torch.var_mean(x.float(), axes, correction=0, keepdim=True)
        scale = torch.rsqrt(variance + self.eps) * self.weight.view(1, -1, *([1] * len(axes)))
        offset = self.bias.view(1, -1, *([1] * len(axes))) - mean * scale
        return torch.addcmul(offset, x.float(), scale).to(x.dtype)


def activation() -> nn.LeakyReLU:
    """Leaky ReLU with nnU-Net's slope."""
    return nn.LeakyReLU(0.01, inplace=True)


class ConvBlock(nn.Module):
    """Convolution, normalisation, activation: (N, inputs, *S) -> (N, outputs, *(S / stride))."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = conv(spatial_dims, inputs, outputs, stride=stride, bias=False)
        self.norm = InstanceNorm(outputs)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.activation(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two convolutions around an identity: (N, channels, *S) -> same shape."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(spatial_dims, channels, channels)
        self.conv = conv(spatial_dims, channels, channels, bias=False)
        self.norm = InstanceNorm(channels)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.activation(self.norm(self.conv(self.first(x))) + x)


class GatedResidual(nn.Module):
    """x + gain * y with one learned gain per channel: two of (N, channels, *S) -> same shape.

    The gain starts at zero, so that at step 0 a network equals the one without the branch that made y
    (LayerScale: Touvron et al., ICCV 2021).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the branch, in the type of x."""
        gain = self.gain.view(1, -1, *([1] * (x.ndim - 2)))
        return x + gain.to(x.dtype) * y.to(x.dtype)
