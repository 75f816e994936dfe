import dataclasses
import json

import pytest

from arcface_jax.errors import InputError
from arcface_jax.runs.run_folder import MetricsWriter, RunFolder, read_metrics, write_whole
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import read_config


def test_configuration_survives_the_file(tiny_config, tmp_path):
    RunFolder(tmp_path, tiny_config)
    assert read_config(tmp_path / "config.json") == tiny_config


def test_the_saved_recipe_does_not_name_its_folder(with_run, tmp_path):
    RunFolder(tmp_path, with_run(folder=str(tmp_path)))
    assert json.loads((tmp_path / "config.json").read_text())["run"]["folder"] is None


def test_an_unfinished_run_of_the_same_configuration_goes_on(tiny_config, with_run, tmp_path):
    RunFolder(tmp_path, tiny_config)
    MetricsWriter(tmp_path, tiny_config).__exit__()
    # Where and how a run is made may differ.
    assert RunFolder(tmp_path, with_run(devices=1, keep=5, folder=str(tmp_path))).changes == []


def test_a_folder_whose_run_never_began_is_used(tiny_config, tmp_path):
    RunFolder(tmp_path, tiny_config)
    RunFolder(tmp_path, tiny_config)


def test_a_finished_run_is_not_resumed(tiny_config, with_run, tmp_path):
    RunFolder(tmp_path, tiny_config).finish({"seconds": 1.0})
    with pytest.raises(InputError, match="finished"):
        RunFolder(tmp_path, with_run(resume="changed"))
    with pytest.raises(
        InputError, match=r"a finished run of another configuration \(run.steps is 7, was 6\)"
    ):
        RunFolder(tmp_path, with_run(steps=7))


def test_the_same_command_finds_a_finished_run(tiny_config, with_run, tmp_path):
    assert not RunFolder(tmp_path, tiny_config).is_finished
    RunFolder(tmp_path, tiny_config).finish({"seconds": 1.0})
    assert RunFolder(tmp_path, with_run(folder=str(tmp_path))).is_finished


def test_resuming_with_another_configuration_names_each_difference(tiny_config, with_run, tmp_path):
    RunFolder(tmp_path, tiny_config)
    MetricsWriter(tmp_path, tiny_config).__exit__()
    changed = dataclasses.replace(
        with_run(steps=7), loss=dataclasses.replace(tiny_config.loss, margin=0.3)
    )
    with pytest.raises(
        InputError,
        match=r"loss.margin is 0.3, was 0.5; run.steps is 7, was 6.*--run.resume changed",
    ):
        RunFolder(tmp_path, changed)
    asked = dataclasses.replace(changed, run=dataclasses.replace(changed.run, resume="changed"))
    assert RunFolder(tmp_path, asked).changes == [
        "loss.margin is 0.3, was 0.5",
        "run.steps is 7, was 6",
    ]
    assert read_config(tmp_path / "config.json") == changed


def test_resuming_needs_a_run(with_run, tmp_path):
    with pytest.raises(InputError, match="holds no run to go on with"):
        RunFolder(tmp_path / "mistyped", with_run(resume="changed"))
    assert not (tmp_path / "mistyped").exists()


def test_a_run_that_never_began_leaves_nothing(tiny_config, tmp_path):
    run = RunFolder(tmp_path / "run", tiny_config)
    run.checkpoints.mkdir()
    run.discard()
    assert not (tmp_path / "run").exists()
    begun = RunFolder(tmp_path / "begun", tiny_config)
    MetricsWriter(tmp_path / "begun", tiny_config).__exit__()
    begun.discard()
    assert (tmp_path / "begun" / "config.json").exists()


def test_an_unwritable_folder_is_named(tiny_config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"run.folder .*file/run cannot be written"):
        RunFolder(tmp_path / "file" / "run", tiny_config)


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_metrics_are_json_lines(tmp_path):
    with MetricsWriter(tmp_path, Config()) as writer:
        writer.write(1, {"loss": 2.5})
        writer.write(2, {"loss": float("nan")})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "is not JSON"),
        ("[]", "sections must be among data, model"),
        ('{"dat": {}}', "sections must be among data, model"),
        ('{"data": {"sorce": "folder"}}', "section data has unknown content sorce; known: "),
        ('{"data": 3}', "section data has unknown content 3"),
        ('{"run": {"steps": "many"}}', "run.steps is .many.; give a whole number"),
        ('{"run": {"seed": 1.5}}', "run.seed is 1.5; give a whole number"),
        ('{"loss": {"name": "arcfase"}}', "loss.name arcfase: no such loss"),
        ('{"loss": {"margin": "x"}}', "loss.margin is .x.; give a number"),
        ('{"data": {"flip_test": 1}}', "data.flip_test is 1; give true or false"),
        ('{"data": {"verify": [1]}}', "data.verify is .1.; give a list, each text"),
    ],
)
def test_a_bad_configuration_file_is_named(content, named, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=named):
        read_config(tmp_path / "config.json")


def test_a_missing_configuration_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent.json: cannot be read"):
        read_config(tmp_path / "absent.json")
