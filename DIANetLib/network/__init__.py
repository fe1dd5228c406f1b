# SPDX-License-Identifier: Apache-2.0
"""DIANet, the Domain-Informed Adaptive Network (paper, section 3.3).

Axes everywhere: (B, C, *spatial), spatial (k, j, i) in 3-D and (j, i) in 2-D.
"""

from DIANetLib.network.config import LatentConfig, NetworkConfig
from DIANetLib.network.dianet import DIANet, Encoded
from DIANetLib.network.heads import SegmentationOutput
from DIANetLib.network.latent import GaussianDistribution

__all__ = ["DIANet", "Encoded", "GaussianDistribution", "LatentConfig", "NetworkConfig", "SegmentationOutput"]
