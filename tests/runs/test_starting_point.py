"""A run begins with the weights of a trained model, and so does what its optimiser keeps."""

import dataclasses

import jax
import numpy as np
import pytest

from arcface_jax.commands.fine_tuning import open_start, open_teacher
from arcface_jax.errors import InputError
from arcface_jax.interop.model import TrainedModel
from arcface_jax.pixels import ARCFACE_TORCH
from arcface_jax.runs.setup import prepare
from arcface_jax.runs.starting_point import check_fits, start_from, with_teacher
from arcface_jax.training.program import create_program
from tests.runs.short_runs import Recorder, final_state, run
from tests.runs.test_run_options import with_


@pytest.fixture
def fine_tuning(tiny_config):
    return with_(tiny_config, model={"init": "trained"}, run={"devices": 1})


def model_of(program, seed=7):
    """A trained model of the program's network: some numbers."""
    random = np.random.default_rng(seed)
    state = jax.eval_shape(program.make_state)
    variables = jax.tree.map(
        lambda leaf: random.uniform(0.1, 1.0, leaf.shape).astype(np.float32),
        state.backbone_variables,
    )
    size = program.config.data.size
    return TrainedModel(program.backbone, variables, ARCFACE_TORCH, size, "trained")


@pytest.mark.parametrize(
    ("optimiser", "kept"),
    [({"start_decay": 0.1}, 2), ({"start_decay": 0.1, "decay": "all"}, 5), ({}, 0)],
)
def test_the_optimiser_keeps_the_weights_that_it_draws_to(fine_tuning, optimiser, kept):
    program = create_program(with_(fine_tuning, optimiser={**optimiser, "ema": 0.9}), 3)
    model = model_of(program)
    before = program.placement.create(program.make_state)
    head = jax.device_get(before.params["head"])
    state = jax.device_get(start_from(model, before, program))
    jax.tree.map(np.testing.assert_array_equal, state.backbone_variables, dict(model.variables))
    jax.tree.map(np.testing.assert_array_equal, state.average, dict(model.variables))
    jax.tree.map(np.testing.assert_array_equal, state.params["head"], head)
    weights = jax.tree.leaves(model.variables["params"])
    found = [
        leaf
        for leaf in jax.tree.leaves(state.optimiser_state)
        if any(leaf.shape == one.shape and np.array_equal(leaf, one) for one in weights)
    ]
    assert len(found) == kept


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda params: params["conv"].update(bias=np.zeros(8, np.float32)),
            r"params/conv/bias is \[8\], this run's model has \[4\]; set --model.name",
        ),
        (lambda params: params.pop("fc"), r"params/fc/bias is absent, .* and 1 more differ; set"),
        (lambda params: params.update(gate=np.zeros(1)), r"params/gate is \[1\], .* has absent"),
    ],
)
def test_a_model_that_does_not_fit_is_named_before_data_are_loaded(fine_tuning, damage, message):
    model = model_of(create_program(fine_tuning, 3))
    params = dict(model.variables["params"])
    params["conv"] = dict(params["conv"])
    damage(params)
    model = dataclasses.replace(model, variables={**model.variables, "params": params})
    with pytest.raises(InputError, match=f"model.init trained: {message}"):
        check_fits(model, create_program(fine_tuning, 2))
    nowhere = with_(fine_tuning, data={"verify": ("neither.bin",)})
    with pytest.raises(InputError, match=message):
        prepare(nowhere, start=model)


def test_a_run_goes_on_without_the_model_that_it_began_with(fine_tuning, tmp_path):
    """What the weights are drawn to is in the checkpoint."""
    config = with_(fine_tuning, optimiser={"start_decay": 0.1, "frozen": 0.5})
    model = model_of(create_program(config, 3))
    whole, parts = (prepare(config, start=model) for _ in range(2))
    run(config, tmp_path / "whole", setup=whole)
    with pytest.raises(BaseException, match="4"):
        run(config, tmp_path / "parts", Recorder(stop_at=4), parts)
    parts = dataclasses.replace(parts, start=None)
    run(config, tmp_path / "parts", setup=parts)
    states = [final_state(tmp_path / name, whole) for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    with pytest.raises(InputError, match=r"model.init trained: is needed, for there is no chec"):
        run(config, tmp_path / "other", setup=parts)


def test_a_run_starts_from_another_runs_backbone(straight, setup, tiny_config):
    before = final_state(straight.folder, setup).backbone_variables
    for place, same in (("", True), ("checkpoints/6", True), ("checkpoints/3", False)):
        config = with_(tiny_config, model={"init": str(straight.folder / place)}, run={"seed": 1})
        model = open_start(config)
        check_fits(model, create_program(config, 2))
        kernels = (tree["params"]["fc"]["kernel"] for tree in (model.variables, before))
        assert np.array_equal(*kernels) == same
    wrong = with_(
        tiny_config, model={"init": str(straight.folder), "width": 8, "pixels": "adaface"}
    )
    with pytest.raises(
        InputError, match=r"model\.width 8 \(4\); model\.pixels adaface \(arcface_to"
    ):
        open_start(wrong)
    missing = with_(tiny_config, model={"init": str(straight.folder / "checkpoints" / "9")})
    with pytest.raises(InputError, match=r"model\.init .*checkpoints/9: no such"):
        open_start(missing)


def test_of_a_run_with_a_moving_average_that_is_the_model(tiny_config, tmp_path):
    """As it is for every command that opens a run."""
    config = with_(tiny_config, optimiser={"ema": 0.5}, run={"steps": 2, "evaluate_every": 2})
    setup = prepare(config)
    run(config, tmp_path, setup=setup)
    model = open_start(with_(config, model={"init": str(tmp_path)}))
    average = final_state(tmp_path, setup).average
    jax.tree.map(np.testing.assert_array_equal, dict(model.variables), average)


def test_a_teacher_gives_the_embeddings_that_it_has_in_use(tiny_config):
    program = create_program(with_(tiny_config, model={"teacher": "t"}, run={"devices": 1}), 3)
    model = model_of(program)
    taught = with_teacher(model, program)
    images = np.random.default_rng(0).normal(size=(2, *program.config.data.size, 3))
    images = images.astype(np.float32)
    expected = program.backbone.apply(model.variables, images)
    np.testing.assert_allclose(taught.teacher(images), expected, atol=1e-5)
    assert taught.pass_options()["teacher"] is taught.teacher
    assert with_teacher(None, program) is program


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"embedding_size": 5}}, "model.teacher t: model.embedding_size is 5 here, and"),
        ({"data": {"image_size": 24}}, "data.image_size, image_width is"),
        ({"model": {"pixels": "adaface"}}, "model.pixels is"),
    ],
)
def test_a_teacher_of_other_images_is_refused(tiny_config, changes, said):
    model = model_of(create_program(tiny_config, 3))
    both = {**changes, "model": {"teacher": "t", **changes.get("model", {})}}
    with pytest.raises(InputError, match=said):
        with_teacher(model, create_program(with_(tiny_config, **both), 3))


def test_a_teacher_that_would_do_nothing_or_is_not_there_is_refused(tiny_config, tmp_path):
    assert open_teacher(tiny_config) is None
    with pytest.raises(InputError, match=r"model\.teacher .*absent: no such file or folder"):
        open_teacher(with_(tiny_config, model={"teacher": str(tmp_path / "absent")}))
    for model, optimiser, said in (
        ({"teacher_weight": 2.0}, {}, "is of model.teacher, which is not set"),
        ({"teacher": "t"}, {"frozen": 1.0}, "does nothing with optimiser.frozen 1"),
        ({"teacher": "t", "teacher_weight": 0.0}, {}, "model.teacher_weight"),
    ):
        with pytest.raises(InputError, match=said):
            create_program(with_(tiny_config, model=model, optimiser=optimiser), 3)
