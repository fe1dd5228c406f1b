# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import torch

from DIANetLib.acwi import uncertainty
from DIANetLib.acwi.uncertainty import (
    RunningUncertainty,
    UncertaintyMaps,
    class_variance,
    entropy,
    mutual_information,
    structure_uncertainty,
)
from DIANetLib.errors import DIANetError


def random_samples(
    count: int, classes: int, *spatial: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((count, classes, *spatial), generator=generator, dtype=torch.float64)
    return torch.softmax(logits, 1).to(dtype)


def run(
    samples: torch.Tensor, variance: torch.Tensor | None = None, batch: int | None = None
) -> UncertaintyMaps:
    running = RunningUncertainty(samples.shape[1:], like=samples)
    batch = batch or len(samples)
    for start in range(0, len(samples), batch):
        part = slice(start, start + batch)
        running.update(samples[part], None if variance is None else variance[part])
    return running.finish()


def tensors(maps: UncertaintyMaps) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(maps).items() if isinstance(value, torch.Tensor)}


def test_samples_that_contradict_each_other_are_all_epistemic() -> None:
    maps = run(torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None])
    assert maps.total.item() == pytest.approx(math.log(2), abs=1e-6)
    assert maps.aleatoric.item() == pytest.approx(0.0, abs=1e-7)
    assert maps.epistemic.item() == pytest.approx(math.log(2), abs=1e-6)
    assert maps.mean_probability.flatten().tolist() == [0.5, 0.5]
    # Equation 34: E[y^2] - (E[y])^2 = 1/2 - 1/4.
    assert maps.variance.flatten().tolist() == [0.25, 0.25]
    assert maps.heteroscedastic is None
    assert maps.samples == 2


def test_samples_that_agree_on_a_coin_toss_are_all_aleatoric() -> None:
    maps = run(torch.full((4, 2, 3), 0.5))
    torch.testing.assert_close(maps.total, torch.full((3,), math.log(2)))
    torch.testing.assert_close(maps.aleatoric, torch.full((3,), math.log(2)))
    assert maps.epistemic.abs().max() < 1e-6
    assert maps.variance.abs().max() == 0


def test_two_samples_worked_by_hand_give_all_maps() -> None:
    maps = run(torch.tensor([[0.8, 0.2], [0.4, 0.6]])[:, :, None])
    h_mean = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    h_first = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    h_second = h_mean
    assert maps.total.item() == pytest.approx(h_mean, abs=1e-6)
    assert maps.aleatoric.item() == pytest.approx((h_first + h_second) / 2, abs=1e-6)
    assert maps.epistemic.item() == pytest.approx(h_mean - (h_first + h_second) / 2, abs=1e-6)
    assert maps.variance.flatten().tolist() == pytest.approx([0.04, 0.04], abs=1e-7)


def test_high_entropy_means_low_confidence_unlike_the_printed_remark() -> None:
    sure, unsure = entropy(torch.tensor([[0.98, 0.4], [0.01, 0.3], [0.01, 0.3]]))
    assert sure < unsure <= math.log(3)


def test_entropy_equals_scipys_on_any_axis() -> None:
    p = random_samples(5, 4, 6, 7, dtype=torch.float64)
    for dim in (0, 1, -1):
        q = p / p.sum(dim, keepdim=True)
        np.testing.assert_allclose(
            entropy(q, dim).numpy(), scipy.stats.entropy(q.numpy(), axis=dim), atol=1e-12
        )


def test_entropy_of_certainty_is_zero_and_of_chance_is_ln_k() -> None:
    assert entropy(torch.tensor([1.0, 0.0, 0.0])).item() == 0.0
    assert entropy(torch.full((22,), 1 / 22)).item() == pytest.approx(math.log(22), abs=1e-6)


def test_identical_samples_have_no_epistemic_uncertainty() -> None:
    maps = run(random_samples(1, 5, 4, 4, 4).expand(7, -1, -1, -1, -1))
    assert maps.epistemic.max() < 1e-6
    assert maps.variance.max() < 1e-6


def test_one_sample_has_exactly_no_epistemic_uncertainty_and_no_variance() -> None:
    p = random_samples(1, 3, 4, 5, 6)
    maps = run(p)
    assert maps.epistemic.abs().max() == 0
    assert maps.variance.abs().max() == 0
    torch.testing.assert_close(maps.total, entropy(p[0]))
    assert torch.equal(maps.mean_probability, p[0])


def test_batches_of_samples_give_the_same_bits_as_one_by_one() -> None:
    p = random_samples(6, 3, 5, 6, 7)
    variance = random_samples(6, 3, 5, 6, 7, seed=1)
    one_by_one = tensors(run(p, variance, batch=1))
    for batch in (2, 4, 6):
        for name, value in tensors(run(p, variance, batch=batch)).items():
            assert torch.equal(value, one_by_one[name]), name


def test_parts_of_the_volume_give_the_same_bits_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    p = random_samples(3, 4, 9, 11)
    whole = tensors(run(p))
    monkeypatch.setattr(uncertainty, "_VALUES_PER_THREAD", 7)
    for name, value in tensors(run(p)).items():
        assert torch.equal(value, whole[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_running_sums_equal_the_formulas_on_all_samples_at_once(dtype: torch.dtype) -> None:
    exact = random_samples(10, 5, 6, 7, 8, dtype=torch.float64)
    maps = run(exact.to(dtype))
    assert maps.total.dtype == dtype
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    p = exact.numpy()
    total = scipy.stats.entropy(p.mean(0), axis=0)
    aleatoric = scipy.stats.entropy(p, axis=1).mean(0)
    for value, expected in [
        (maps.mean_probability, p.mean(0)),
        (maps.total, total),
        (maps.aleatoric, aleatoric),
        (maps.epistemic, total - aleatoric),
        (maps.variance, p.var(0)),
        (maps.epistemic, mutual_information(exact).numpy()),
        (maps.variance, class_variance(exact).numpy()),
    ]:
        np.testing.assert_allclose(value.numpy(), expected, atol=tolerance)


def test_rounding_never_breaks_the_order_of_the_maps() -> None:
    # Nearly identical, nearly certain samples are where float32 would give negative differences.
    p = random_samples(1, 3, 40, 40) ** 8
    p = (p / p.sum(1, keepdim=True)).expand(9, -1, -1, -1) + 1e-8
    maps = run(p)
    assert (maps.epistemic >= 0).all()
    assert (maps.aleatoric >= 0).all()
    assert (maps.variance >= 0).all()
    assert (maps.total >= maps.aleatoric).all()


def test_probabilities_of_half_precision_are_summed_in_single() -> None:
    p = random_samples(4, 3, 5, 5)
    maps = run(p.to(torch.bfloat16))
    assert maps.total.dtype == torch.float32
    torch.testing.assert_close(maps.total, run(p).total, atol=0.02, rtol=0)


def test_heteroscedastic_map_is_the_mean_variance_over_samples_and_classes() -> None:
    p = random_samples(2, 2, 1)
    variance = torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]])
    heteroscedastic = run(p, variance).heteroscedastic
    assert heteroscedastic is not None
    assert heteroscedastic.tolist() == [4.0]


def test_mutual_information_finds_its_axes() -> None:
    p = random_samples(6, 3, 4, dtype=torch.float64)
    expected = mutual_information(p)
    torch.testing.assert_close(mutual_information(p.movedim(0, -1), sample_dim=-1, class_dim=0), expected)
    torch.testing.assert_close(mutual_information(p.movedim(0, 1), sample_dim=1, class_dim=0), expected)


def test_a_two_dimensional_input_that_does_not_lie_in_one_piece_works() -> None:
    p = random_samples(3, 4, 6, 8)
    scattered = p.movedim(1, -1).contiguous().movedim(-1, 1)
    assert not scattered.is_contiguous()
    assert torch.equal(run(scattered).total, run(p).total)


def test_sums_can_cross_the_border_of_inference_mode() -> None:
    p = random_samples(2, 3, 4, 4)
    with torch.inference_mode():
        running = RunningUncertainty((3, 4, 4))
        running.update(p.clone(), p.clone())
    running.update(p.requires_grad_(), p)
    maps = running.finish()
    assert maps.samples == 4
    assert not any(value.requires_grad for value in tensors(maps).values())


def test_the_samples_are_left_as_they_were() -> None:
    p = random_samples(2, 3, 4)
    before = p.clone()
    run(p, p)
    entropy(p, 1)
    assert torch.equal(p, before)


def test_structure_uncertainty_is_the_mean_over_the_structure_or_none() -> None:
    uncertainty_map = torch.tensor([0.1, 0.2, 0.6])
    assert structure_uncertainty(uncertainty_map, torch.tensor([True, False, True])) == pytest.approx(0.35)
    assert structure_uncertainty(uncertainty_map, torch.zeros(3, dtype=torch.bool)) is None


def test_probabilities_that_are_not_numbers_are_refused_with_a_remedy() -> None:
    p = random_samples(2, 3, 4)
    p[1, 0, 2] = math.nan
    with pytest.raises(DIANetError, match=r"not finite numbers.*full precision"):
        run(p)


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match=r"expected a shape \(classes, \*spatial\)"):
        RunningUncertainty((3,))
    running = RunningUncertainty((3, 4))
    with pytest.raises(RuntimeError, match="at least one sample"):
        running.finish()
    with pytest.raises(ValueError, match=r"expected probabilities of shape \(N, 3, 4\), got \(2, 3, 5\)"):
        running.update(random_samples(2, 3, 5))
    running.update(random_samples(2, 3, 4))
    with pytest.raises(ValueError, match="in every update or in none"):
        running.update(random_samples(2, 3, 4), random_samples(2, 3, 4))
    running.finish()
    with pytest.raises(RuntimeError, match="after finish"):
        running.update(random_samples(2, 3, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_maps_of_the_cpu() -> None:
    p = random_samples(4, 5, 9, 10, 11)
    on_gpu = tensors(run(p.cuda(), p.cuda()))
    for name, value in tensors(run(p, p)).items():
        torch.testing.assert_close(on_gpu[name].cpu(), value, atol=2e-6, rtol=0)


def test_nothing_is_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(random_samples(3, 2, 4, 4, 4))
