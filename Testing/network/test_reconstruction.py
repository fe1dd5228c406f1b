# SPDX-License-Identifier: Apache-2.0
"""Reconstruction head, equations (20, 21)."""

from __future__ import annotations

import pytest
import torch

from DIANetLib.network import DIANet, ReconstructionConfig
from DIANetLib.operators import Denoising, KSpaceUndersampling
from Testing.network.tiny import config, generators, image, network

IMAGES = {"classes": 0, "modalities": 2, "reconstruction": ReconstructionConfig()}


def undersampling(shape: tuple[int, ...]) -> KSpaceUndersampling:
    mask = torch.zeros(1, 1, *shape)
    mask[..., ::2] = 1.0
    return KSpaceUndersampling(mask)


@pytest.mark.parametrize("dims", [2, 3])
def test_at_step_zero_the_image_put_out_is_the_one_observed(dims: int) -> None:
    model = DIANet(config(dims, **IMAGES)).eval()
    x = image(model.config, 2)
    assert torch.equal(model(x).reconstructed.image, x)
    trained = model.train()(x).reconstructed
    coarse = torch.nn.functional.interpolate(x, trained.coarser[0].shape[2:], mode="area")
    torch.testing.assert_close(trained.coarser[0], coarse)


def test_beside_segmentation_the_head_changes_no_logit() -> None:
    model = DIANet(config(reconstruction=ReconstructionConfig(), dropout=0.0)).eval()
    plain = DIANet(config(dropout=0.0)).eval()
    plain.load_state_dict(
        {n: w for n, w in model.state_dict().items() if not n.startswith("reconstruction.")}
    )
    x = image(model.config)
    assert torch.equal(model(x).segmented.mean, plain(x).segmented.mean)


def test_without_residual_another_number_of_channels_is_put_out() -> None:
    head = ReconstructionConfig(channels=3, residual=False)
    model = network(config(2, classes=0, reconstruction=head))
    assert model(image(model.config)).reconstructed.image.shape == (1, 3, 16, 24)


def test_what_an_exact_operator_measured_is_kept() -> None:
    model = network(config(2, **IMAGES))
    operator = undersampling((16, 24))
    observed = operator.observe(image(model.config, 2))
    made = model(observed, operator=operator).reconstructed.image
    torch.testing.assert_close(operator.normal(made), observed, atol=1e-5, rtol=1e-5)
    assert (made - observed).abs().max() > 1e-3  # and the rest is filled in


def test_every_sample_keeps_what_was_measured_of_its_own_case() -> None:
    model = network(config(2, **IMAGES))
    masks = torch.zeros(2, 1, 16, 24)
    masks[0, ..., ::2], masks[1, ..., 1::2] = 1.0, 1.0
    operator = KSpaceUndersampling(masks)
    observed = operator.observe(image(model.config, 2))
    made = model(observed, generators=generators(range(4)), operator=operator).reconstructed.image
    for row, case in enumerate((0, 0, 1, 1)):
        one = KSpaceUndersampling(masks[case : case + 1])
        kept = one.normal(made[row : row + 1])
        torch.testing.assert_close(kept, observed[case : case + 1], atol=1e-5, rtol=1e-5)
    assert (made[0] - made[1]).abs().max() > 1e-4


def test_a_noisy_observation_is_not_put_back() -> None:
    model = network(config(2, **IMAGES))
    x = image(model.config)
    denoised = model(x, operator=Denoising(0.1)).reconstructed.image
    assert torch.equal(denoised, model(x).reconstructed.image)


def test_bfloat16_reconstructs_with_an_exact_operator() -> None:
    model = network(config(2, **IMAGES))
    operator = undersampling((16, 24))
    observed = operator.observe(image(model.config))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        made = model(observed, operator=operator).reconstructed.image
    exact = model(observed, operator=operator).reconstructed.image
    assert made.dtype == torch.float32
    assert (made - exact).abs().max() < 0.1


def test_the_width_factor_narrows_the_decoder() -> None:
    wide = DIANet(config(**IMAGES)).parameter_count()
    narrow = DIANet(config(**{**IMAGES, "reconstruction": ReconstructionConfig(width_factor=0.5)}))
    assert narrow.parameter_count() < wide
