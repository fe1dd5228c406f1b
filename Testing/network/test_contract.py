# SPDX-License-Identifier: Apache-2.0
"""What every DIANet promises, whatever it is made of."""

from __future__ import annotations

import io
import itertools

import pytest
import torch

from DIANetLib.errors import InputError
from DIANetLib.losses.latent import gaussian_kl
from DIANetLib.losses.task import DiceCrossEntropy, downsample_labels, expected_probabilities
from DIANetLib.network import DIANet, NetworkConfig
from DIANetLib.network.config import AttentionConfig, CodeBookConfig, DiffuserConfig, PyramidConfig
from DIANetLib.network.noise import RandomSource
from Testing.network.tiny import DIVISOR, SIZES, calls, config, generators, image, network

REFINEMENTS = {"codebook": CodeBookConfig(codes=7), "diffuser": DiffuserConfig(heads=5)}
CONTEXT = {"pyramid": PyramidConfig(channels=5), "attention": AttentionConfig(channels=6, heads=2, grid=3)}
BLOCKS = {**REFINEMENTS, **CONTEXT}
BEFORE_LATENT = ("encoder.", "pyramid.", "attention.")
KINDS = [
    pytest.param(
        config(dims, modalities=modalities, latent=latent, heteroscedastic=heteroscedastic),
        id=f"{dims}d-{modalities}{'-latent' * latent}{'-heteroscedastic' * heteroscedastic}",
    )
    for dims, modalities, latent, heteroscedastic in itertools.product(
        (2, 3), (1, 2), (True, False), (True, False)
    )
] + [
    pytest.param(config(dims, **{name: BLOCKS[name] for name in names}), id=f"{dims}d-{'-'.join(names)}")
    for dims, names in (
        (2, ("codebook",)),
        (3, ("diffuser",)),
        (2, ("codebook", "diffuser")),
        (3, ("codebook", "diffuser")),
        (3, tuple(BLOCKS)),
    )
]
KINDS += [
    pytest.param(
        config(dims, **{name: block for name, block in CONTEXT.items() if name in names}),
        id="-".join((f"{dims}d", *names)),
    )
    for dims, names in (
        (2, ("pyramid",)),
        (3, ("attention",)),
        (2, ("pyramid", "attention")),
        (3, ("pyramid", "attention")),
    )
]
every_kind = pytest.mark.parametrize("setup", KINDS)


@every_kind
def test_logits_have_the_image_s_size_and_a_channel_per_class(setup: NetworkConfig) -> None:
    output = network(setup)(image(setup, 2))
    shape = (2, setup.classes, *SIZES[setup.spatial_dims])
    assert output.mean.shape == shape
    assert output.mean.dtype == torch.float32
    assert (output.log_variance is not None) == setup.heteroscedastic
    if output.log_variance is not None:
        assert output.log_variance.shape == shape
    assert output.auxiliary == ()
    assert output.latent is None
    probabilities = output.probabilities()
    assert probabilities.shape == shape
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(shape[0], *shape[2:]))


@every_kind
def test_training_also_gives_coarser_logits_and_the_latent_s_distribution(setup: NetworkConfig) -> None:
    output = network(setup).train()(image(setup, 2))
    coarser = tuple(size // 2 for size in SIZES[setup.spatial_dims])
    assert [tuple(logits.shape) for logits in output.auxiliary] == [(2, setup.classes, *coarser)]
    assert (output.latent is not None) == (setup.latent is not None)
    if output.latent is not None:
        coarsest = tuple(size // DIVISOR for size in SIZES[setup.spatial_dims])
        assert output.latent.mean.shape == output.latent.log_variance.shape == (2, 5, *coarsest)


def test_coarser_logits_come_finest_first() -> None:
    setup = config(2, widths=(3, 4, 5, 6), blocks=(0, 0, 0, 0), strides=(2, 1, 2), deep_supervision=2)
    model = DIANet(setup).train()
    assert [head.in_channels for head in model.segmentation.auxiliary] == [4, 5]
    output = model(image(setup))
    assert [tuple(logits.shape[2:]) for logits in output.auxiliary] == [(8, 12), (8, 12)]


def test_dropout_acts_at_the_bottleneck_and_at_each_decoder_scale_but_the_finest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, float]] = []

    def record(_source: RandomSource, x: torch.Tensor, rate: float) -> torch.Tensor:
        seen.append((x.shape[1], rate))
        return x

    monkeypatch.setattr(RandomSource, "channel_dropout", record)
    setup = config(dropout=0.2, decoder_dropout=0.1)
    network(setup)(image(setup), generators=generators([1]))
    assert seen == [(8, 0.2), (6, 0.1), (4, 0.0)]


@every_kind
def test_the_training_loss_reaches_every_parameter(setup: NetworkConfig) -> None:
    torch.manual_seed(3)
    # As built: the projection of h and the log-variance rows start at zero. What lies behind a gain that
    # starts at zero is reached once the gain has moved: `test_codebook.py`, `test_diffuser.py`.
    refined = any((setup.codebook, setup.diffuser, setup.pyramid, setup.attention))
    model = (network(setup) if refined else DIANet(setup)).train()
    x = image(setup, 2)
    labels = torch.randint(setup.classes, (2, *SIZES[setup.spatial_dims]))
    output = model(x)
    criterion = DiceCrossEntropy()
    loss = criterion(expected_probabilities(output.mean, output.log_variance, 4), labels)
    for logits in output.auxiliary:
        loss = loss + criterion(torch.softmax(logits, 1), downsample_labels(labels, logits.shape[2:]))
    if output.latent is not None:
        loss = loss + gaussian_kl(output.latent.mean, output.latent.log_variance).sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@every_kind
def test_probabilities_can_be_explained_by_gradients(setup: NetworkConfig) -> None:
    x = image(setup).requires_grad_()
    network(setup)(x).probabilities()[:, 1].sum().backward()
    assert x.grad is not None
    assert x.grad.any()


@every_kind
def test_the_state_dictionary_survives_a_file(setup: NetworkConfig) -> None:
    model, x = network(setup, seed=1), image(setup)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    restored = DIANet(NetworkConfig.parse(setup.model_dump(mode="json"))).eval()
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(restored(x).mean, model(x).mean)


@every_kind
def test_evaluation_without_generators_is_deterministic(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup)
    assert torch.equal(model(x).mean, model(x).mean)


@every_kind
def test_a_batch_equals_its_cases_one_by_one(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup, 2)
    alone = torch.cat([model(x[:1]).mean, model(x[1:]).mean])
    torch.testing.assert_close(model(x).mean, alone, atol=1e-5, rtol=1e-5)


@every_kind
def test_batched_samples_equal_a_loop_of_single_passes(setup: NetworkConfig) -> None:
    model, x, seeds = network(setup), image(setup, 2), range(10, 16)
    with torch.no_grad():
        together = model(x, generators=generators(seeds))
        loop = [model(x[row // 3 : row // 3 + 1], generators=generators([s])) for row, s in enumerate(seeds)]
    torch.testing.assert_close(together.mean, torch.cat([one.mean for one in loop]), atol=1e-5, rtol=1e-5)
    if together.log_variance is not None:
        spread = torch.cat([one.log_variance for one in loop if one.log_variance is not None])
        torch.testing.assert_close(together.log_variance, spread, atol=1e-5, rtol=1e-5)
    for one, other in itertools.combinations(together.mean[:3], 2):
        assert (one - other).abs().max() > 1e-3


@every_kind
def test_samples_of_one_seed_are_the_same_sample(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup)
    once, twice = model(x, generators=generators([7])), model(x, generators=generators([7]))
    assert torch.equal(once.mean, twice.mean)


@every_kind
def test_forward_is_decode_after_encode(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup, 2)
    assert torch.equal(model.decode(model.encode(x)).mean, model(x).mean)
    sampled = model.decode(model.encode(x), generators(range(4)))
    assert torch.equal(sampled.mean, model(x, generators=generators(range(4))).mean)


@every_kind
def test_the_deterministic_part_runs_once_for_all_samples(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup, 2)
    with torch.no_grad(), calls(model) as once:
        encoded = model.encode(x)
    with torch.no_grad(), calls(model) as sampled:
        model.decode(encoded, generators(range(6)))
    sampled.pop("diffuser.position", None)  # encodes the grid, whatever the rows
    assert not once.keys() & sampled.keys()
    assert all(rows == [2] for rows in once.values())
    assert all(rows == [6] for rows in sampled.values())
    per_sample = {"latent.project"} if setup.latent is not None else set()
    per_sample |= {"bottleneck", "segmentation.logits"}
    per_sample |= {"codebook"} if setup.codebook is not None else set()
    per_sample |= {
        f"diffuser.layers.0.{part}"
        for part in ("space.norm", "space.read", "space.write", "mix.0", "mix.1", "mix.2", "mix.3")
        if setup.diffuser is not None
    }
    per_sample |= {
        f"segmentation.scales.{i}.{part}" for i in (0, 1) for part in ("up", "up_half", "norm", "activation")
    }
    assert set(sampled) == per_sample
    deterministic = {"segmentation.scales.0.skip_half", "segmentation.scales.1.skip_half"}
    deterministic |= {"latent.mean", "latent.log_variance"} if setup.latent is not None else set()
    assert {name for name in once if not name.startswith(BEFORE_LATENT)} == deterministic


@every_kind
@pytest.mark.parametrize("training", [False, True])
def test_encoding_draws_no_random_numbers(
    setup: NetworkConfig, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("random numbers were drawn")

    model, x = network(setup).train(training), image(setup)
    monkeypatch.setattr(RandomSource, "normal", refuse)
    monkeypatch.setattr(RandomSource, "channel_dropout", refuse)
    state = torch.get_rng_state()
    model.encode(x)
    assert torch.equal(torch.get_rng_state(), state)


@every_kind
def test_the_mean_pass_draws_no_random_numbers(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup)
    state = torch.get_rng_state()
    model(x)
    model(x, generators=generators([1]))
    assert torch.equal(torch.get_rng_state(), state)


@every_kind
def test_explainable_layers_are_modules_that_run(setup: NetworkConfig) -> None:
    model = network(setup)
    layers = model.explainable_layers()
    assert layers[0] == "bottleneck"
    assert len(layers) == 1 + 3 + 2
    shapes = {}
    for name in layers:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: shapes.update({name: output.shape})
        )
    model(image(setup))
    assert set(shapes) == set(layers)
    coarsest = tuple(size // DIVISOR for size in SIZES[setup.spatial_dims])
    assert shapes["bottleneck"] == (1, 8, *coarsest)


@pytest.mark.parametrize(
    "setup",
    [config(2), config(3), config(3, **REFINEMENTS), config(2, **CONTEXT), config(3, **CONTEXT)],
    ids=["2d", "3d", "3d-codebook-diffuser", "2d-pyramid-attention", "3d-pyramid-attention"],
)
def test_channels_last_and_contiguous_agree(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup, 2)
    contiguous = model(x, generators=generators(range(4))).mean
    layout = torch.channels_last if setup.spatial_dims == 2 else torch.channels_last_3d
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    other = model(x.contiguous(memory_format=layout), generators=generators(range(4))).mean
    torch.testing.assert_close(other, contiguous, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "setup",
    [config(2), config(3), config(3, **REFINEMENTS), config(2, **CONTEXT), config(3, **CONTEXT)],
    ids=["2d", "3d", "3d-codebook-diffuser", "2d-pyramid-attention", "3d-pyramid-attention"],
)
def test_bfloat16_stays_within_two_hundredths_of_the_probabilities(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup)
    with torch.no_grad():
        exact = model(x, generators=generators([1, 2])).probabilities()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x, generators=generators([1, 2]))
    assert output.mean.dtype == torch.bfloat16
    probabilities = output.probabilities()
    assert probabilities.dtype == torch.float32
    assert (probabilities - exact).abs().max() < 0.02


def test_bfloat16_trains() -> None:
    model = network(config()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(image(model.config))
    output.mean.float().square().mean().backward()
    assert all(
        parameter.grad is not None and torch.isfinite(parameter.grad).all()
        for name, parameter in model.named_parameters()
        if not name.startswith("segmentation.auxiliary")
    )


def test_an_image_of_the_wrong_shape_is_refused() -> None:
    model = network(config(modalities=2))
    with pytest.raises(InputError, match=r"expected 5 axes \(batch, modality, 3 spatial\), got shape"):
        model(torch.zeros(2, 8, 8, 8))
    with pytest.raises(InputError, match="expected 2 modality channels, got 1"):
        model(torch.zeros(1, 1, 8, 8, 8))
    with pytest.raises(InputError, match=r"divisible by 4, got \(8, 10, 8\); pad the image first"):
        model(torch.zeros(1, 2, 8, 10, 8))
    with pytest.raises(InputError, match=r"divisible by 4, got \(8, 0, 8\)"):
        model(torch.zeros(1, 2, 8, 0, 8))


@pytest.mark.parametrize("training", [False, True])
def test_an_image_that_leaves_one_position_at_the_bottleneck_is_refused(training: bool) -> None:
    model = network(config()).train(training)
    with pytest.raises(InputError, match=r"above 4 along one axis at least, got \(4, 4, 4\); pad"):
        model(torch.zeros(1, 1, 4, 4, 4))
    model(torch.zeros(1, 1, 4, 4, 8))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_generators_that_do_not_divide_among_the_cases_are_refused(count: int) -> None:
    model = network(config())
    encoded = model.encode(image(model.config, 2))
    with pytest.raises(InputError, match=f"a positive multiple of 2 generators .* 2 cases, got {count}"):
        model.decode(encoded, generators(range(count)))


def test_the_divisor_has_an_entry_per_axis() -> None:
    assert network(config(2)).divisor == (4, 4)
    assert network(config(3)).divisor == (4, 4, 4)


def test_the_parameter_count_adds_up() -> None:
    setup = config(2, latent=False, widths=(2, 3), blocks=(0, 0), strides=(2,), deep_supervision=0)
    encoder = (1 * 2 * 9 + 2 * 2) + (2 * 3 * 9 + 2 * 3)
    decoder = 3 * 2 * 4 + 2 * (2 * 2 * 9) + 2 * 2
    logits = 2 * 6 + 6
    assert DIANet(setup).parameter_count() == encoder + decoder + logits
