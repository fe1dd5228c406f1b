# SPDX-License-Identifier: Apache-2.0
"""What every DIANet promises, whatever it is made of."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
import torch

from DIANetLib.errors import InputError
from DIANetLib.losses.latent import gaussian_kl, total_correlation
from DIANetLib.losses.task import DiceCrossEntropy, downsample_labels, expected_probabilities
from DIANetLib.network import (
    AttentionConfig,
    ClassificationConfig,
    CodeBookConfig,
    DIANet,
    DIANetOutput,
    DiffuserConfig,
    FusionConfig,
    Head,
    LatentConfig,
    NetworkConfig,
    PyramidConfig,
    ReconstructionConfig,
    ReliablePathConfig,
)
from DIANetLib.network.noise import RandomSource
from Testing.network.tiny import DIVISOR, SIZES, calls, config, generators, image, network, parts

REFINEMENTS = {"codebook": CodeBookConfig(codes=7), "diffuser": DiffuserConfig(heads=5)}
CONTEXT = {"pyramid": PyramidConfig(channels=5), "attention": AttentionConfig(channels=6, heads=2, grid=3)}
BLOCKS = {**REFINEMENTS, **CONTEXT}
BEFORE_LATENT = ("encoder.", "pyramid.", "attention.", "fusion.")
CLASSES = {"classification": ClassificationConfig(classes=4)}
IMAGES = {"reconstruction": ReconstructionConfig()}
PATHS = {
    "latent": LatentConfig(channels=5, rank=2, anatomy=True),
    "reliable_path": ReliablePathConfig(),
}
EVERYTHING = {**BLOCKS, **CLASSES, **IMAGES, **PATHS}
NO_LATENT: dict[str, Any] = {"latent": None}
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
KINDS += [
    pytest.param(config(dims, **changes), id=f"{dims}d-{name}")
    for dims, name, changes in (
        (2, "classification-alone", {"classes": 0, **CLASSES}),
        (3, "classification-alone", {"classes": 0, **CLASSES, **BLOCKS}),
        (2, "classification-alone-without-latent", {"classes": 0, **CLASSES, **NO_LATENT, **CONTEXT}),
        (2, "reconstruction-alone", {"classes": 0, "modalities": 2, **IMAGES}),
        (3, "reconstruction-alone", {"classes": 0, **IMAGES, **NO_LATENT}),
        (
            3,
            "reconstruction-of-another-image",
            {
                "reconstruction": ReconstructionConfig(
                    channels=3, residual=False, resolutions=1, width_factor=0.5
                )
            },
        ),
        (3, "low-rank", {"latent": LatentConfig(channels=5, rank=3)}),
        (2, "reliable-path-without-latent", {"reliable_path": ReliablePathConfig(), **NO_LATENT}),
        (3, "reliable-path", PATHS),
        (2, "all-heads", {**CLASSES, **IMAGES}),
        (3, "all-heads-without-latent", {**CLASSES, **IMAGES, **NO_LATENT}),
    )
]
KINDS += [
    pytest.param(
        config(
            dims,
            modalities=modalities,
            **EVERYTHING,
            **({"modality_fusion": FusionConfig(channels=3)} if modalities > 1 else {}),
        ),
        id=f"{dims}d-{modalities}-everything",
    )
    for dims, modalities in itertools.product((2, 3), (1, 2, 3, 4))
]
every_kind = pytest.mark.parametrize("setup", KINDS)
some_kinds = pytest.mark.parametrize(
    "setup",
    [
        config(2),
        config(3),
        config(3, **REFINEMENTS),
        config(2, **CONTEXT),
        config(3, **CONTEXT),
        config(2, **EVERYTHING),
        config(3, **EVERYTHING),
    ],
    ids=[
        "2d",
        "3d",
        "3d-codebook-diffuser",
        "2d-pyramid-attention",
        "3d-pyramid-attention",
        "2d-all",
        "3d-all",
    ],
)


@every_kind
def test_each_head_puts_out_its_shapes_and_nothing_else(setup: NetworkConfig) -> None:
    output = network(setup)(image(setup, 2))
    size = SIZES[setup.spatial_dims]
    coarsest = tuple(side // DIVISOR for side in size)
    expected: dict[str, tuple[int, ...]] = {}
    if setup.classes:
        expected["mean"] = (2, setup.classes, *size)
    if setup.classes and setup.heteroscedastic:
        expected["log_variance"] = (2, setup.classes, *size)
    if setup.classification is not None:
        expected["logits"] = (2, 4)
    if setup.reconstruction is not None:
        expected["image"] = (2, setup.reconstruction.channels or setup.modalities, *size)
    if setup.latent is not None and setup.latent.anatomy:
        expected["anatomy"] = (2, setup.classes, *coarsest)
    found = parts(output)
    assert {name: tuple(value.shape) for name, value in found.items()} == expected
    assert all(value.dtype == torch.float32 for value in found.values())
    assert output.latent is None
    assert output.h is None
    if output.segmentation is not None:
        assert output.segmentation.auxiliary == ()
        probabilities = output.segmentation.probabilities()
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(probabilities.sum(1), torch.ones(2, *size))
    if output.classification is not None:
        torch.testing.assert_close(output.classification.probabilities(2.0).sum(1), torch.ones(2))
    if output.reconstruction is not None:
        assert output.reconstruction.coarser == ()


@every_kind
def test_training_also_gives_coarser_outputs_and_the_latent(setup: NetworkConfig) -> None:
    output = network(setup).train()(image(setup, 2))
    coarser = tuple(size // 2 for size in SIZES[setup.spatial_dims])
    coarsest = tuple(size // DIVISOR for size in SIZES[setup.spatial_dims])
    if output.segmentation is not None:
        shapes = [tuple(logits.shape) for logits in output.segmentation.auxiliary]
        assert shapes == [(2, setup.classes, *coarser)]
    if output.reconstruction is not None and setup.reconstruction is not None:
        images = [tuple(made.shape[2:]) for made in output.reconstruction.coarser]
        assert images == [coarser] * (setup.reconstruction.resolutions - 1)
    assert (output.latent is not None) == (output.h is not None) == (setup.latent is not None)
    if output.latent is not None and output.h is not None and setup.latent is not None:
        assert output.latent.mean.shape == output.latent.log_variance.shape == (2, 5, *coarsest)
        assert output.h.shape == (2, 5, *coarsest)
        factors = output.latent.factors
        assert (None if factors is None else factors.shape[1]) == (setup.latent.rank or None)


def test_coarser_logits_come_finest_first() -> None:
    setup = config(2, widths=(3, 4, 5, 6), blocks=(0, 0, 0, 0), strides=(2, 1, 2), deep_supervision=2)
    model = DIANet(setup).train()
    assert model.segmentation is not None
    assert [head.in_channels for head in model.segmentation.auxiliary] == [4, 5]
    output = model(image(setup))
    assert [tuple(logits.shape[2:]) for logits in output.segmented.auxiliary] == [(8, 12), (8, 12)]


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
    # As built: the projection of h and the log-variance rows start at zero. What lies behind a gain or a
    # layer that starts at zero is reached once that has moved: `test_codebook.py`, `test_diffuser.py`.
    moved = any(
        (setup.codebook, setup.diffuser, setup.pyramid, setup.attention, setup.reconstruction)
    ) or bool(setup.reliable_path or (setup.latent and setup.latent.rank))
    model = (network(setup) if moved else DIANet(setup)).train()
    training_loss(model, image(setup, 2)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def training_loss(model: DIANet, x: torch.Tensor) -> torch.Tensor:
    setup, output = model.config, model(x)
    labels = torch.randint(max(setup.classes, 1), (2, *SIZES[setup.spatial_dims]))
    criterion = DiceCrossEntropy()
    loss = torch.zeros(())
    if output.segmentation is not None:
        mean, log_variance = output.segmentation.mean, output.segmentation.log_variance
        loss = loss + criterion(expected_probabilities(mean, log_variance, 4), labels)
        coarser = [*output.segmentation.auxiliary, *([] if output.anatomy is None else [output.anatomy])]
        for logits in coarser:
            loss = loss + criterion(torch.softmax(logits, 1), downsample_labels(labels, logits.shape[2:]))
    if output.classification is not None:
        loss = loss + torch.nn.functional.cross_entropy(output.classification.logits, torch.tensor([0, 1]))
    if output.reconstruction is not None:
        for made in (output.reconstruction.image, *output.reconstruction.coarser):
            loss = loss + (made - 0.5).square().mean()
    if output.latent is not None:
        loss = loss + gaussian_kl(output.latent.mean, output.latent.marginal_log_variance).sum()
        if output.latent.factors is not None:
            loss = loss + total_correlation(output.latent.log_variance, output.latent.factors)
    return loss


@every_kind
def test_what_each_head_puts_out_can_be_explained_by_gradients(setup: NetworkConfig) -> None:
    model = network(setup)
    for name in parts(model(image(setup))):
        if name == "log_variance" and setup.heteroscedastic:
            continue  # it may lie on its bound
        x = image(setup).requires_grad_()
        parts(model(x))[name][:, :1].square().sum().backward()
        assert x.grad is not None, name
        assert x.grad.any(), name


@every_kind
def test_the_state_dictionary_survives_a_file(setup: NetworkConfig) -> None:
    model, x = network(setup, seed=1), image(setup)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    restored = DIANet(NetworkConfig.parse(setup.model_dump(mode="json"))).eval()
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    assert_equal(restored(x), model(x))


def assert_equal(one: DIANetOutput, other: DIANetOutput) -> None:
    found, expected = parts(one), parts(other)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], atol=2e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def joined(outputs: list[DIANetOutput]) -> dict[str, torch.Tensor]:
    """What single passes give, as one batch."""
    rows = [parts(output) for output in outputs]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


@every_kind
def test_evaluation_without_generators_is_deterministic(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup)
    assert_equal(model(x), model(x))


@every_kind
def test_a_batch_equals_its_cases_one_by_one(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup, 2)
    assert_close(parts(model(x)), joined([model(x[:1]), model(x[1:])]))


@every_kind
def test_batched_samples_equal_a_loop_of_single_passes(setup: NetworkConfig) -> None:
    model, x, seeds = network(setup), image(setup, 2), range(10, 16)
    with torch.no_grad():
        together = parts(model(x, generators=generators(seeds)))
        loop = [model(x[row // 3 : row // 3 + 1], generators=generators([s])) for row, s in enumerate(seeds)]
    assert_close(together, joined(loop))
    # P(h) varies with h alone, an image or class without latent with dropout
    for name, value in together.items():
        for one, other in itertools.combinations(value[:3], 2):
            assert (one - other).abs().max() > 1e-4, name


@every_kind
def test_samples_of_one_seed_are_the_same_sample(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup)
    assert_equal(model(x, generators=generators([7])), model(x, generators=generators([7])))


@every_kind
def test_forward_is_decode_after_encode(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup, 2)
    assert_equal(model.decode(model.encode(x)), model(x))
    sampled = model.decode(model.encode(x), generators(range(4)))
    assert_equal(sampled, model(x, generators=generators(range(4))))


@every_kind
def test_a_head_asked_for_alone_gives_what_it_gives_beside_the_others(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup, 2)
    together = parts(model(x))
    of_head: dict[Head, tuple[str, ...]] = {
        "segmentation": ("mean", "log_variance"),
        "classification": ("logits",),
        "reconstruction": ("image",),
    }
    for head, names in of_head.items():
        if not together.keys() & set(names):
            continue
        alone = parts(model.decode(model.encode(x, heads=(head,)), heads=(head,)))
        alone.pop("anatomy", None)
        assert_close(alone, {name: value for name, value in together.items() if name in names})


@every_kind
def test_the_deterministic_part_runs_once_for_all_samples(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup, 2)
    with torch.no_grad(), calls(model) as once:
        encoded = model.encode(x)
    with torch.no_grad(), calls(model) as sampled:
        model.decode(encoded, generators(range(6)))
    sampled.pop("diffuser.position", None)  # encodes the grid, whatever the rows
    sampled = {name: rows for name, rows in sampled.items() if not name.endswith("paths.weights")}
    assert not once.keys() & sampled.keys()
    assert all(rows == [2] for rows in once.values())
    assert all(rows == [6] for rows in sampled.values())
    decoders = [name for name in ("segmentation", "reconstruction") if getattr(model, name) is not None]
    before = {f"{head}.scales.{scale}.skip_half" for head in decoders for scale in (0, 1)}
    before |= {"latent.mean", "latent.log_variance"} if setup.latent is not None else set()
    before |= {"latent.factors"} if setup.latent is not None and setup.latent.rank else set()
    assert {name for name in once if not name.startswith(BEFORE_LATENT)} == before
    assert not [name for name in sampled if name.startswith(BEFORE_LATENT)]


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
    assert len(layers) >= 4
    shapes = {}
    for name in layers:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: shapes.update({name: output.shape})
        )
    model(image(setup))
    assert set(shapes) == set(layers)
    coarsest = tuple(size // DIVISOR for size in SIZES[setup.spatial_dims])
    assert shapes[layers[0]][2:] == coarsest
    if setup.classes:
        assert layers[0] == "bottleneck"
        assert shapes["bottleneck"] == (1, 8, *coarsest)


@every_kind
def test_the_default_explainable_layer_is_read_by_some_head(setup: NetworkConfig) -> None:
    model, kept = network(setup), []
    layer = model.get_submodule(model.explainable_layers()[0])
    layer.register_forward_hook(lambda _module, _args, output: kept.append(output))
    output = parts(model(image(setup)))
    output.pop("anatomy", None)
    gradient = torch.autograd.grad(sum(value.square().sum() for value in output.values()), kept[0])
    assert gradient[0].any()


@some_kinds
def test_channels_last_and_contiguous_agree(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup, 2)
    contiguous = parts(model(x, generators=generators(range(4))))
    layout = torch.channels_last if setup.spatial_dims == 2 else torch.channels_last_3d
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    other = model(x.contiguous(memory_format=layout), generators=generators(range(4)))
    assert_close(parts(other), contiguous)


@some_kinds
def test_bfloat16_stays_within_two_hundredths_of_the_probabilities(setup: NetworkConfig) -> None:
    model, x = network(setup), image(setup)
    with torch.no_grad():
        exact = model(x, generators=generators([1, 2])).segmented.probabilities()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x, generators=generators([1, 2]))
    assert output.segmented.mean.dtype == torch.bfloat16
    probabilities = output.segmented.probabilities()
    assert probabilities.dtype == torch.float32
    assert (probabilities - exact).abs().max() < 0.02


def test_bfloat16_trains() -> None:
    model = network(config()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(image(model.config))
    output.segmented.mean.float().square().mean().backward()
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
