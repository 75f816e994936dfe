"""What a configuration may not ask for."""

import dataclasses

import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    ArcFace,
    Circle,
    CurricularFace,
    Intra,
    MagFace,
    NormFace,
    Softmax,
    Triplet,
    UniFace,
)
from arcface_jax.training.config import (
    DEFAULT_LOSS,
    Config,
    HeadConfig,
    ModelConfig,
    OptimiserConfig,
    RunConfig,
    with_loss,
)
from arcface_jax.training.program import create_program

CHUNKED = HeadConfig("chunked", chunk=4)
FUSED = dataclasses.replace(CHUNKED, update="fused")


@pytest.mark.parametrize(
    ("loss", "head", "named"),
    [
        (Softmax(), HeadConfig("sharded"), "head.kind sharded has no loss.name softmax"),
        (CurricularFace(), FUSED, "head.update fused has no loss.name curricularface"),
        (UniFace(), FUSED, "head.update fused has no loss.name uniface"),
        (Circle(), HeadConfig("chunked", kernel="pallas"), "head.kernel pallas has no loss.name c"),
        (ArcFace(), HeadConfig(sample_rate=0.5), "head.sample_rate 0.5 does nothing with head.kin"),
        (ArcFace(), HeadConfig(chunk=5), "head.chunk 5 does nothing with head.kind dense"),
        (ArcFace(), HeadConfig("chunked", chunk=0), "head.chunk is 0"),
        (ArcFace(), HeadConfig("chunked", sample_rate=1.5), "head.sample_rate"),
        (ArcFace(), HeadConfig("chunked", dtype="bfloat16"), "head.dtype bfloat16 does nothing"),
        (ArcFace(), HeadConfig(kernel="pallas"), "head.kernel pallas does nothing with head.kind"),
        (ArcFace(), HeadConfig("chunked", skip=0.1), "head.skip 0.1 does nothing with head.kernel"),
        (ArcFace(), HeadConfig("chunked", kernel="pallas", skip=2.0), "head.skip is 2; pass"),
        (
            ArcFace(),
            dataclasses.replace(CHUNKED, kernel="pallas"),
            "head.chunk 4 does nothing with head.kernel pallas",
        ),
        (
            ArcFace(),
            HeadConfig("chunked", update="fused", kernel="pallas"),
            "head.kernel pallas does nothing with head.update fused",
        ),
        (
            ArcFace(sub_centers=3),
            HeadConfig("chunked", kernel="pallas"),
            "head.kernel pallas has no loss.sub_centers 3; use xla",
        ),
        (Triplet(), HeadConfig(precision="high"), "head.precision high does nothing with loss.na"),
        (MagFace(), FUSED, "head.update fused has no loss.name magface"),
        (Intra(), FUSED, "head.update fused has no loss.name intra"),
        (NormFace(learn_scale=True), FUSED, "head.update fused has no loss.name normface"),
        (ArcFace(), dataclasses.replace(FUSED, unsampled="keep"), "head.unsampled keep does noth"),
    ],
)
def test_a_head_that_the_loss_cannot_have_is_refused(loss, head, named):
    config = Config(loss=loss, head=head, run=RunConfig(devices=1))
    with pytest.raises(InputError, match=named):
        create_program(config, 11)


@pytest.mark.parametrize(
    ("optimiser", "named"),
    [
        (OptimiserConfig(name="adamw"), r"learns by SGD alone, not adamw; use"),
        (OptimiserConfig(clip=5.0), r"it; use --optimiser\.clip-over backbone"),
    ],
)
def test_a_fused_head_refuses_an_optimiser_that_needs_its_gradient(optimiser, named):
    config = Config(head=FUSED, optimiser=optimiser, run=RunConfig(devices=1))
    with pytest.raises(InputError, match=named):
        create_program(config, 11)


def test_a_fused_head_may_have_the_backbone_clipped():
    optimiser = OptimiserConfig(clip=5.0, clip_over="backbone")
    create_program(Config(head=FUSED, optimiser=optimiser, run=RunConfig(devices=1)), 11)


def test_another_loss_has_its_own_numbers_but_the_scale_stays():
    config = with_loss(Config(loss=ArcFace(scale=20.0, margin=0.3)), "cosface")
    assert (config.loss.scale, config.loss.margin) == (20.0, 0.35)
    assert with_loss(config, "cosface") is config
    assert with_loss(with_loss(config, "softmax"), "arcface").loss == DEFAULT_LOSS


@pytest.mark.parametrize(
    ("init", "frozen", "named"),
    [
        (None, 0.0, "start_decay 0.1 draws the weights to those of model.init, which is not set"),
        ("a.pt", 1.0, "start_decay 0.1 does nothing with optimiser.frozen 1"),
    ],
)
def test_a_pull_to_no_start_is_refused(init, frozen, named):
    config = Config(
        model=ModelConfig(init=init),
        optimiser=OptimiserConfig(start_decay=0.1, frozen=frozen),
        run=RunConfig(devices=1),
    )
    with pytest.raises(InputError, match=named):
        create_program(config, 11)


@pytest.mark.parametrize(
    ("init", "loss", "norm", "known"),
    [
        (None, ArcFace(scale=16.0), None, True),
        (None, Triplet(), None, True),
        ("a.pt", ArcFace(scale=16.0), 10.0, True),
        ("a.pt", ArcFace(scale=16.0), None, False),
        ("a.pt", Triplet(), 10.0, False),
    ],
)
def test_the_first_loss_is_expected_only_where_it_is_known(init, loss, norm, known):
    config = Config(model=ModelConfig(init=init), loss=loss, run=RunConfig(devices=1))
    assert (create_program(config, 11).expected_initial_loss(norm) is not None) == known
