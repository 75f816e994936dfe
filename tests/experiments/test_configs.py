"""Every preset as its authors describe it, built whole from shapes: no data, no memory."""

import dataclasses
import functools
import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.commands.command import run_command
from arcface_jax.errors import InputError
from arcface_jax.losses import CosFace
from arcface_jax.models.registry import create
from arcface_jax.runs.dataset import load_data
from arcface_jax.training import step_time
from arcface_jax.training.abstract import (
    abstract_program,
    abstract_state,
    forward_operations,
    state_memory,
    trace_step,
)
from arcface_jax.training.optimisers import create_schedule, peak_learning_rate
from arcface_jax.training.program import create_program
from experiments import plan, train
from experiments.recipes.presets import PRESETS, RECIPES
from tests.experiments import small_network  # noqa: F401 - registers its network

PARAMETERS = {
    "iresnet18": 24_025_600,
    "iresnet50": 43_590_848,
    "iresnet100": 65_156_160,
    "mbf": 2_059_520,
    "vit_b": 113_833_472,
}
# Published multiply-adds in 10⁹; ours leave out the zeros of the padding.
MULTIPLY_ADDS = {"iresnet18": 2.6, "iresnet50": 6.3, "iresnet100": 12.1, "mbf": 0.45, "vit_b": 11.4}

IDENTITIES = {
    "casia": (10_572, 490_623),
    "ms1mv2": (85_742, 5_822_653),
    "ms1mv3": (93_431, 5_179_510),
    "glint360k": (360_232, 17_091_657),
    "webface4m": (205_990, 4_235_242),
    "webface12m": (617_970, 12_720_066),
    "webface42m": (2_059_906, 42_474_557),
}


def rate(name, *steps):
    config = RECIPES[name]()
    schedule = create_schedule(config.optimiser, config.run.steps, config.run.batch_size)
    return [float(schedule(step)) for step in steps]


@functools.cache
def first_variables(backbone):
    """Their shapes for one image, traced once for all the recipes with this backbone."""
    images = jax.ShapeDtypeStruct((1, 112, 112, 3), np.float32)
    return jax.eval_shape(backbone.init, jax.random.key(0), images)


def traced_once(program):
    """The program, its backbone's first variables zeros of the shapes they have."""

    def init(key, images):
        assert images.shape == (1, 112, 112, 3)
        shapes = first_variables(program.backbone)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return dataclasses.replace(program, backbone=types.SimpleNamespace(init=init))


@pytest.mark.parametrize("name", RECIPES)
def test_a_preset_builds_whole_on_eight_devices(name):
    recipe, config = RECIPES[name], RECIPES[name]()
    (data,) = [numbers for key, numbers in IDENTITIES.items() if key in name.split("-")]
    assert (recipe.data.identities, recipe.data.images) == data
    memory = state_memory(traced_once(abstract_program(config, recipe.data.identities)), 8)
    slots = 2 if config.optimiser.name == "adamw" else 1
    sharded = config.head.kind == "sharded"
    rows = -(-recipe.data.identities // 8) if sharded else recipe.data.identities
    assert memory.class_rows == (1 + slots) * rows * 512 * 4
    # A number for each parameter in each slot, and a count of steps or two.
    assert 0 < memory.optimiser - 4 * slots * PARAMETERS[config.model.name] <= 8
    assert (config.loss.scale, config.model.width, config.data.image_size) == (64.0, 64, 112)
    create_program(
        config, recipe.data.identities
    )  # its batch is a multiple of eight devices and its parts


@pytest.mark.parametrize("network", PARAMETERS)
def test_parameters_and_operations_are_the_published(network):
    params = first_variables(create(network))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[network]
    ours = forward_operations(create(network), 112) / 2e9
    assert 0.92 * MULTIPLY_ADDS[network] < ours < 1.015 * MULTIPLY_ADDS[network]


def with_small_network(recipe):
    """The recipe, but for its network."""

    @functools.wraps(recipe.make)
    def make():
        config = recipe.make()
        model = dataclasses.replace(config.model, name="one_convolution")
        return dataclasses.replace(config, model=model)

    return dataclasses.replace(recipe, make=make)


def lower(recipe):
    program = create_program(recipe(), recipe.data.identities)
    state, metrics = trace_step(program).lower().out_info
    expected = abstract_state(program, len(program.placement.devices))
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    assert {"loss", "accuracy", "theta"} <= metrics.keys()


def test_the_whole_step_lowers():
    lower(RECIPES["adaface-casia-r18"])
    lower(with_small_network(RECIPES["magface-ms1mv2-r18"]))


FIRST_OF_NETWORK = {RECIPES[name]().model.name: name for name in reversed(RECIPES)}.values()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "adaface-casia-r18"])
def test_the_whole_step_of_another_preset_lowers(name):
    """With its network, or a small one where another preset has the same."""
    recipe = RECIPES[name]
    lower(recipe if name in FIRST_OF_NETWORK else with_small_network(recipe))


@pytest.mark.parametrize(
    ("name", "drops", "steps"),
    [
        ("casia-r50", (20_000, 28_000), 32_000),
        ("ms1mv2-r50", (100_000, 160_000), 180_000),
        ("ms1mv2-r100", (100_000, 160_000), 180_000),
        ("adaface-ms1mv2-r50", tuple(epoch * 11_372 for epoch in (12, 20, 24)), 26 * 11_372),
        ("magface-ms1mv2-r50", tuple(epoch * 11_372 for epoch in (10, 18, 22)), 25 * 11_372),
    ],
)
def test_schedules_of_steps(name, drops, steps):
    assert RECIPES[name]().run.steps == steps
    assert RECIPES[name]().run.batch_size == 512
    expected = 0.1
    for drop in drops:
        assert rate(name, drop - 1) == pytest.approx([expected], rel=1e-5)
        expected /= 10
        assert rate(name, drop) == pytest.approx([expected], rel=1e-5)


def test_polynomial_schedules():
    assert RECIPES["ms1mv3-r50"]().run.steps == 20 * (5_179_510 // 1024) == 101_160
    assert rate("ms1mv3-r50", 0, 50_580, 101_160) == pytest.approx([0.1, 0.05, 0.0])
    steps = RECIPES["webface42m-r100"]().run.steps
    assert rate("webface42m-r100", steps // 40, steps // 20) == pytest.approx([0.15, 0.3], rel=1e-3)
    assert RECIPES["webface42m-vit-b"]().run.steps == 40 * (42_474_557 // 24_576)


def test_what_the_recipes_are_trained_with():
    paper, torch, glint = (
        RECIPES[name]() for name in ("casia-r50", "ms1mv3-r100", "glint360k-r100")
    )
    assert (paper.model.dropout, torch.model.dropout) == (0.4, 0.0)
    assert (paper.loss.past_pi, torch.loss.gradient) == ("linear", "straight_through")
    assert (paper.optimiser.decay, torch.optimiser.decay) == ("kernels", "all")
    assert (type(glint.loss), glint.loss.margin) == (CosFace, 0.4)
    assert (paper.optimiser.clip, torch.optimiser.clip) == (None, 5.0)
    assert torch.optimiser.clip_over == "backbone"
    for config in (recipe() for recipe in RECIPES.values()):
        assert config.optimiser.learning_rate == pytest.approx(
            peak_learning_rate(config.optimiser, config.run.batch_size)
        )
    assert [
        RECIPES[f"webface42m-{network}"]().head.sample_rate for network in ("r50", "r100", "vit-b")
    ] == [
        0.2,
        0.2,
        0.3,
    ]


def test_hours_are_images_over_a_published_speed():
    casia = RECIPES["casia-r50"]
    assert casia.hours == pytest.approx(32_000 * 512 / 3388.66 / 3600)
    assert RECIPES["ms1mv3-r50"].hours == pytest.approx(20 * 5_179_510 / 4824 / 3600, rel=1e-3)
    assert RECIPES["ms1mv3-mbf"].hours is None
    assert "--check" in RECIPES["ms1mv3-mbf"].expected()


@pytest.mark.parametrize("name", RECIPES)
def test_the_documentation_states_data_schedule_result_and_hours(name):
    recipe = RECIPES[name]
    text = recipe.__doc__
    for said in (
        f"{recipe.data.identities:,} identities",
        f"{recipe().run.steps:,} steps",
        recipe.schedule(),
    ):
        assert said in text
    assert (recipe.published or "no result of exactly this run") in text
    assert re.search(r"Expected: (\d+\.\d hours at|no published speed)", text)
    assert len(text.splitlines()[0]) < 130


def test_presets_are_listed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "--presets"])
    assert train.main() == 0
    listed = " ".join(capsys.readouterr().out.split())
    for name, make in PRESETS.items():
        assert f"{name} {' '.join(make.__doc__.splitlines()[0].split())}" in listed


def test_the_data_come_from_the_command_line(tmp_path):
    with pytest.raises(InputError, match="nothing is verified"):
        load_data(train.parse(["ms1mv3-r50"]).data, 0)
    sets = [str(tmp_path / name) for name in ("lfw.bin", "cfp_fp.bin")]
    for path in sets:
        pathlib.Path(path).touch()
    with pytest.raises(InputError, match=r"data\.root is missing: --data\.source auto needs"):
        load_data(train.parse(["ms1mv3-r50", "--data.verify", *sets]).data, 0)
    config = train.parse(["ms1mv3-r50", "--data.root", str(tmp_path), "--data.verify", *sets])
    assert config.data.verify == tuple(sets)
    halved = train.parse(["ms1mv3-r50", "--run.batch-size", "512"])
    assert peak_learning_rate(halved.optimiser, halved.run.batch_size) == pytest.approx(0.05)


# A convolution of 3 × 3 × 3 × 4, 56 × 56 × 4 to 512, the biases of both, and the normalisation.
SMALL_PARAMETERS = f"{108 + 4 + 12_544 * 512 + 512 + 2 * 512:,}"


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the plan command, the networks of two recipes small; returns (exit status, what it
    printed, errors).
    """
    few = ("adaface-casia-r18", "magface-ms1mv2-r18")
    small = {name: with_small_network(RECIPES[name]) for name in few}
    monkeypatch.setattr(plan, "RECIPES", RECIPES | small)
    before = jax.config.jax_platforms

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["plan", *arguments])
        with pytest.raises(SystemExit) as stop:
            run_command(plan.main)
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    yield run
    jax.config.update("jax_platforms", before)


def test_the_plan_of_a_preset(command):
    status, out, _ = command("--preset", "magface-ms1mv2-r18")
    assert status == 0
    for said in (
        f"{SMALL_PARAMETERS} parameters",
        "43,899,904 class weights",
        "85,742 identities",
        "activations",
    ):
        assert said in out
    numbers = {
        line.split()[0]: line.split()[1:]
        for line in out.splitlines()
        if re.match(r"\s+(1|8|64)\s+\d", line)
    }
    assert numbers.keys() == {"1", "8", "64"}
    rows = [float(numbers[count][2]) for count in ("1", "8", "64")]
    expected = [2 * rows * 512 * 4 / 2**30 for rows in (85_742, 10_718, 1_340)]
    np.testing.assert_allclose(rows, expected, atol=6e-4)
    status, out, _ = command("--preset=magface-ms1mv2-r18", "--markdown", "--devices", "4")
    assert status == 0
    assert (
        "| devices | backbone | optimiser | class rows | gradients | activations | head | total |"
        in out
    )
    assert re.search(r"^\| 4 \| 0\.024 ", out, re.MULTILINE)


def test_the_table_of_presets(command, monkeypatch):
    few = {name: make for name, make in plan.RECIPES.items() if name.endswith("r18")}
    monkeypatch.setattr(plan, "RECIPES", few)
    status, out, _ = command("--all-presets", "--markdown")
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {9}
    assert lines[2].startswith("| adaface-casia-r18 | CASIA-WebFace: 10,572 identities")
    assert f"| {SMALL_PARAMETERS} + 43,899,904 |" in lines[3]
    assert command("--all-presets")[0] == 0


def test_the_plan_of_networks(command):
    arguments = ("--networks", "resnet20", "--batches", "8", "16", "--image-size", "16")
    status, out, _ = command(*arguments, "--batch", "64", "--classes", "1000", "--markdown")
    assert status == 0
    tables = [part.splitlines() for part in out.split("\n\n") if part.startswith("|")]
    counted, times = ([line.split(" | ") for line in lines[2:]] for lines in tables)
    assert [row[1] for row in counted] == ["8", "16"]
    assert float(counted[1][3]) < 2 * float(counted[0][3])  # the weights are moved once
    assert [row[0] for row in times] == ["| 8 × A100", "| 8 × H100", "| 8 × TPU v5e"]
    assert all(row[1:4] == ["resnet20", "64", "1,000"] for row in times)


def test_a_published_speed_stands_beside_what_is_due(monkeypatch):
    """It was measured with statistics of each device's own images: no collectives for those."""
    need = step_time.Needs(12e9, 2e8, 1e8, 43_000_000, 80)
    monkeypatch.setattr(plan, "needs", lambda *_: need)
    header, rows = plan.time_rows(plan.NetworkPlan(("iresnet100",)))
    first = dict(zip(header, rows[0], strict=True))
    assert first["device"] == "8 × A100"
    assert (first["classes"], first["published"], first["small"]) == ("618,000", "3,700", "0.0")
    least = float(first["img/s"].split()[0].replace(",", ""))
    assert float(first["of in turn"]) == pytest.approx(3700 / least, abs=0.006)
    assert [row[-2] for row in rows[1:]] == ["–"] * 6
    assert rows[1][header.index("small")] == "2.4"  # 2 · 80 · 15 µs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--networks", "nonet"), "--networks nonet: choose among"),
        (("--networks", "resnet20", "--batch", "9"), "pass a multiple of the 8 devices"),
        (("--preset", "nothing"), "--preset nothing: choose one of casia-r50"),
        (("--preset", "casia-r50", "--all-presets"), "one of them"),
        (("--all-presets", "--devices", "4"), "--devices is for --preset"),
        (("-5",), "IDENTITIES is -5; pass a finite number not below 1"),
        (("1000", "--tflops", "0"), "--tflops is 0; pass a finite number above 0"),
    ],
)
def test_wrong_plans_are_refused(command, arguments, message):
    status, _, errors = command(*arguments)
    assert status == 2
    assert message in errors
