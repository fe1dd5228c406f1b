# SPDX-License-Identifier: Apache-2.0
"""Feature maps pooled over their positions."""

from __future__ import annotations

import numpy as np
import torch

from DIANetLib.acwi.pooling import pool


def test_means_and_deviations_of_a_map_worked_by_hand():
    one = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]]]])  # (1, 2, 2, 2)
    found = pool([one], (2, 2))
    assert found.counts == (4,)
    np.testing.assert_allclose(found.means[0], [4.0, 2.0])
    np.testing.assert_allclose(found.deviations[0], [np.sqrt(5.0), 0.0], atol=1e-7)


def test_padding_is_left_out_on_every_scale():
    fine, coarse = torch.arange(8.0).view(1, 1, 8), torch.arange(4.0).view(1, 1, 4)
    found = pool([fine, coarse], (8,), (slice(2, 7),))
    np.testing.assert_allclose(found.means[0], [4.0])  # 2 to 6
    # Coarse positions cover the voxels 0-1, 2-3, 4-5, 6-7; the middle of the last is the image's border.
    assert found.counts == (5, 2)
    np.testing.assert_allclose(found.means[1], [1.5])


def test_an_image_thinner_than_a_coarse_position_still_counts_once():
    found = pool([torch.tensor([[[5.0, 9.0]]])], (16,), (slice(7, 8),))
    assert found.counts == (1,)


def test_windows_add_up_to_what_all_their_positions_give():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 3, n, 4, generator=generator) * 5 + 100 for n in (2, 5)]
    together = pool([parts[0]], (2, 4)) + pool([parts[1]], (5, 4))
    values = torch.cat([part[0].flatten(1) for part in parts], 1).double().numpy()
    assert together.counts == (28,)
    np.testing.assert_allclose(together.means[0], values.mean(1), rtol=1e-6)
    np.testing.assert_allclose(together.deviations[0], values.std(1), rtol=1e-4)


def test_half_precision_is_summed_up_as_single():
    many = torch.full((1, 1, 100_000), 3.0, dtype=torch.float16)  # their sum is beyond float16
    assert pool([many], (100_000,)).means[0] == 3.0
