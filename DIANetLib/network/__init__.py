# SPDX-License-Identifier: Apache-2.0
"""DIANet, the Domain-Informed Adaptive Network (paper, section 3.3).

Axes everywhere: (B, C, *spatial), spatial (k, j, i) in 3-D and (j, i) in 2-D.
"""

from DIANetLib.network.config import (
    AttentionConfig,
    ClassificationConfig,
    CodeBookConfig,
    DiffuserConfig,
    FusionConfig,
    LatentConfig,
    NetworkConfig,
    PyramidConfig,
    ReconstructionConfig,
    ReliablePathConfig,
)
from DIANetLib.network.dianet import DIANet, Encoded, Head
from DIANetLib.network.latent import GaussianDistribution
from DIANetLib.network.output import (
    ClassificationOutput,
    DIANetOutput,
    ReconstructionOutput,
    SegmentationOutput,
)

__all__ = [
    "AttentionConfig",
    "ClassificationConfig",
    "ClassificationOutput",
    "CodeBookConfig",
    "DIANet",
    "DIANetOutput",
    "DiffuserConfig",
    "Encoded",
    "FusionConfig",
    "GaussianDistribution",
    "Head",
    "LatentConfig",
    "NetworkConfig",
    "PyramidConfig",
    "ReconstructionConfig",
    "ReconstructionOutput",
    "ReliablePathConfig",
    "SegmentationOutput",
]
