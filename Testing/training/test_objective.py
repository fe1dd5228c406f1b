# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from DIANetLib.losses.adversarial import encoder_loss
from DIANetLib.losses.anatomy import domain_regulariser, spatial_prior_kl
from DIANetLib.losses.classification import classification_loss
from DIANetLib.losses.cut import cut_loss
from DIANetLib.losses.task import DiceCrossEntropy
from DIANetLib.network import DIANet, DIANetOutput, SegmentationOutput
from Testing.training.tiny import config
from training.adversary import Adversary
from training.augment import PatchStream
from training.batch import Batch, Reader
from training.config import TrainingConfig
from training.config_tasks import AdversarialTerm, ObjectiveConfig, ReconstructionTask, TasksConfig
from training.datasets import PreparedCase
from training.distributed import Context
from training.objective import Objective
from training.priors import Priors, learn_priors

CPU = torch.device("cpu")
HERE = Context(0, 1, CPU)
TARGETS = [
    {"key": "small", "name": "Small", "source_values": ["0"]},
    {"key": "large", "name": "Large", "source_values": ["1"]},
]


def everything(**changes: Any) -> TrainingConfig:
    """Three heads and every term."""
    return config(
        data__targets=TARGETS,
        network__latent={"channels": 4, "rank": 1, "anatomy": True},
        network__classification={"classes": 2},
        network__reconstruction={"resolutions": 1},
        tasks={"segmentation": 1.0, "classification": 0.5, "reconstruction": {"weight": 0.3}},
        objective={
            "total_correlation": 0.1,
            "domain_l2": 0.2,
            "domain_l1": 0.3,
            "spatial_prior": 0.4,
            "cut": {"structures": ["front", "back"], "weight": 0.5},
            "adversarial": {"weight": 0.1, "start": 0, "length": 1},
        },
        **changes,
    )


def batch_of(settings: TrainingConfig, cases: list[PreparedCase]) -> Batch:
    stream = PatchStream(
        cases,
        settings.patch_kji,
        settings.augment,
        seed=1,
        first=0,
        count=len(cases),
        degradation=settings.tasks.reconstruction,
    )
    reader = Reader(CPU, targets=True, reconstruction=settings.tasks.reconstruction)
    return reader(default_collate([stream[number] for number in range(len(stream))]))


def bare(case: PreparedCase, **changes: Any) -> PreparedCase:
    return PreparedCase(case.name, case.image, **{"labels": None, **changes})


def test_every_term_is_what_its_loss_gives_and_the_sum_is_weighted(cases: list[PreparedCase]):
    settings = everything()
    priors = learn_priors(settings, cases)
    batch = batch_of(settings, [bare(cases[0], target=1), cases[1], cases[2]])
    torch.manual_seed(0)
    output = DIANet(settings.network).train()(batch.images, operator=batch.operator)
    plain = DIANetOutput(
        SegmentationOutput(output.segmented.mean), *list(vars(output).values())[1:]
    )  # without the drawn noise of the logits

    loss = Objective(settings.objective, settings.tasks, priors=priors)(plain, batch)

    probabilities = torch.softmax(output.segmented.mean, 1)
    assert batch.labels is not None
    assert batch.target is not None
    assert priors.atlas is not None
    assert priors.cut is not None
    ph = torch.softmax(output.anatomy, 1)
    coarse = priors.atlas.at(batch.labels, output.anatomy.shape[2:], batch.labelled)
    fine = priors.atlas.at(batch.labels, probabilities.shape[2:], batch.labelled)
    expected = {
        "task": DiceCrossEntropy()(probabilities[batch.labelled], batch.labels[batch.labelled]),
        "classification": classification_loss(output.classified.logits, batch.target),
        "domain_l2": domain_regulariser(ph, coarse.target, coarse.valid, order=2),
        "domain_l1": domain_regulariser(ph, coarse.target, coarse.valid, order=1),
        "spatial_prior": spatial_prior_kl(probabilities, fine.target, fine.valid),
        "cut": cut_loss(probabilities, priors.cut, batch.labels, batch.labelled).total,
    }
    for name, value in expected.items():
        torch.testing.assert_close(loss.terms[name], value.detach(), msg=name)
    weights = {
        "task": 1.0,
        "classification": 0.5,
        "reconstruction": 0.3,
        "total_correlation": 0.1,
        "domain_l2": 0.2,
        "domain_l1": 0.3,
        "spatial_prior": 0.4,
        "cut": 0.5,
    }
    total = sum(weight * loss.terms[name] for name, weight in weights.items())
    kl = settings.objective.kl_weight * (loss.terms["kl"] - 4 * settings.objective.kl_free_nats)
    torch.testing.assert_close(loss.total.detach(), total + kl, rtol=1e-4, atol=1e-4)
    assert loss.terms["kl_active"] == 4


def test_the_parts_of_the_cut_weigh_as_configured(cases: list[PreparedCase]):
    settings = everything()
    priors = learn_priors(settings, cases)
    assert settings.objective.cut is not None
    assert priors.cut is not None
    term = settings.objective.cut.model_copy(update={"shares": 0.3, "single": 0.0, "position": 0.0})
    rules = ObjectiveConfig(cut=term)
    batch = batch_of(settings, cases[:2])
    output = DIANetOutput(SegmentationOutput(torch.randn(2, 3, *batch.images.shape[2:])))

    found = Objective(rules, priors=priors)(output, batch).terms["cut"]

    parts = cut_loss(torch.softmax(output.segmented.mean, 1), priors.cut, batch.labels, batch.labelled)
    torch.testing.assert_close(found, 0.3 * parts.shares)


def test_terms_beside_the_tasks_fade_at_the_end_of_a_fit(cases: list[PreparedCase]):
    settings = everything()
    priors = learn_priors(settings, cases)
    rules = ObjectiveConfig(cut=settings.objective.cut, spatial_prior=0.4, fade=0.5)
    batch = batch_of(settings, cases[:2])
    output = DIANetOutput(SegmentationOutput(torch.randn(2, 3, *batch.images.shape[2:])))
    objective = Objective(rules, priors=priors)

    first, middle, late, last = (objective(output, batch, done) for done in (0.0, 0.5, 0.75, 1.0))

    assert rules.cut is not None
    extra = rules.cut.weight * first.terms["cut"] + 0.4 * first.terms["spatial_prior"]
    torch.testing.assert_close(first.total, first.terms["task"] + extra)
    torch.testing.assert_close(middle.total, first.total)
    torch.testing.assert_close(late.total, first.terms["task"] + extra / 2)
    torch.testing.assert_close(last.total, first.terms["task"])


@pytest.mark.parametrize("known", ["nothing", "labels", "targets"])
def test_whatever_is_known_every_parameter_has_a_finite_gradient(cases: list[PreparedCase], known: str):
    settings = everything()
    # The cut prior judges predictions without labels too.
    rules = settings.objective.model_copy(update={"cut": None})
    priors = learn_priors(settings, cases)
    part = {
        "nothing": bare(cases[0]),
        "labels": cases[0],
        "targets": bare(cases[0], target=0),
    }[known]
    batch = batch_of(settings, [part, bare(cases[1])])
    model = DIANet(settings.network).train()
    output = model(batch.images, operator=batch.operator)

    loss = Objective(rules, settings.tasks, priors=priors)(output, batch)
    loss.total.backward()

    assert torch.isfinite(loss.total)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    heads = {"labels": "segmentation.logits.weight", "targets": "classification.linear.weight"}
    for kind, name in heads.items():
        learns = bool(dict(model.named_parameters()).get(name, torch.zeros(())).grad.any())
        assert learns is (kind == known), name


def test_rows_without_labels_do_not_change_the_loss_of_the_others(cases: list[PreparedCase]):
    settings = config(network__latent=None, network__heteroscedastic=False)
    objective = Objective(settings.objective)
    both = batch_of(settings, [cases[0], bare(cases[1])])
    logits = torch.randn(2, 3, 12, 16, 16)
    one = Batch(both.images[:1], None, both.labels[:1], both.labelled[:1])
    other = Batch(both.images[1:], None, both.labels[1:], both.labelled[1:])
    first = 0 if bool(both.labelled[0]) else 1

    mixed = objective(DIANetOutput(SegmentationOutput(logits)), both).total
    alone = objective(
        DIANetOutput(SegmentationOutput(logits[first : first + 1])), one if first == 0 else other
    ).total

    torch.testing.assert_close(mixed, alone)


def test_the_reconstruction_of_patches_that_were_left_alone_does_not_count(cases: list[PreparedCase]):
    tasks = TasksConfig(reconstruction=ReconstructionTask(share=1e-9, consistency=0.0))
    settings = config(
        network__reconstruction={"resolutions": 1}, tasks=tasks.model_dump(mode="json"), network__latent=None
    )
    batch = batch_of(settings, cases[:2])
    output = DIANet(settings.network).train()(batch.images, operator=batch.operator)

    terms = Objective(ObjectiveConfig(), tasks)(output, batch).terms

    assert float(terms["reconstruction"]) == 0.0


class TestPriors:
    def test_priors_survive_being_stored(self, cases: list[PreparedCase]):
        priors = learn_priors(everything(), cases)

        again = Priors.restored({name: value.clone() for name, value in priors.stored().items()})

        assert priors.cut == again.cut
        assert priors.cut is not None
        assert priors.cut.axis == 1  # j, of (k, j, i)
        assert 0.3 < priors.cut.mean < 0.7
        torch.testing.assert_close(priors.atlas.probabilities, again.atlas.probabilities, rtol=0, atol=0)
        assert learn_priors(config(), cases).stored() == {}

    def test_slices_make_an_atlas_of_two_dimensions(self, cases: list[PreparedCase]):
        settings = config(
            network__spatial_dims=2, patch=[16, 16, 1], objective={"spatial_prior": 0.1, "kl_weight": 0.0}
        )

        atlas = learn_priors(settings, cases).atlas

        assert atlas is not None
        assert atlas.probabilities.ndim == 3
        torch.testing.assert_close(atlas.probabilities.sum(0), torch.ones(atlas.probabilities.shape[1:]))

    def test_masks_without_structures_are_told_in_a_sentence(self, cases: list[PreparedCase]):
        from DIANetLib.errors import InputError

        empty = PreparedCase("empty", cases[0].image, np.zeros_like(cases[0].labels))

        with pytest.raises(InputError, match="the atlas prior cannot be learned: no case has any foreground"):
            learn_priors(everything(), [empty])


class TestAdversary:
    def test_the_encoder_plays_only_once_it_has_warmed_up(self):
        torch.manual_seed(0)
        adversary = Adversary(AdversarialTerm(weight=0.5, start=10, length=10), 4, HERE)
        h = torch.randn(2, 4, 3, 3, 3, requires_grad=True)
        vectors = adversary.vectors(h)

        assert float(adversary.encoder_term(vectors, 5).detach()) == 0.0
        full = adversary.encoder_term(vectors, 20)
        half = adversary.encoder_term(vectors, 15)
        expected = encoder_loss(adversary.discriminator, vectors)
        torch.testing.assert_close(full, 0.5 * expected, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(half, 0.25 * expected, rtol=1e-2, atol=1e-3)
        full.backward()
        assert h.grad is not None
        assert all(parameter.grad is None for parameter in adversary.discriminator.parameters())

    def test_it_learns_to_tell_latents_apart_and_goes_on_where_it_was(self):
        torch.manual_seed(0)
        term = AdversarialTerm(weight=1.0, learning_rate=5e-3, width=16)
        adversary = Adversary(term, 3, HERE)
        h = 2.0 + 0.2 * torch.randn(4, 3, 4, 4)
        for _ in range(150):
            last = adversary.learn(adversary.vectors(h))
        other = Adversary(term, 3, HERE)
        other.load_state_dict(adversary.state_dict())

        assert float(last["discriminator_accuracy"]) > 0.9
        torch.manual_seed(5)
        one = adversary.learn(h.flatten(2).transpose(1, 2).flatten(0, 1))
        torch.manual_seed(5)
        two = other.learn(h.flatten(2).transpose(1, 2).flatten(0, 1))
        assert one == two
        assert encoder_loss(adversary.discriminator, torch.randn(64, 3)) < encoder_loss(
            adversary.discriminator, adversary.vectors(h)
        )
