"""The console script: every command is found, and hints are spelled as it was called."""

import re
import sys

import pytest

from arcface_jax import command_name
from arcface_jax.command_name import command, install
from arcface_jax.commands.main import call, commands, documentation, overview


def test_every_command_is_listed_with_its_first_sentence():
    assert {"train", "evaluate", "benchmark", "study", "reliability"} < set(commands())
    assert not {"recipes", "__init__"} & set(commands())
    for name, file in commands().items():
        assert re.search(rf"(?m)^  {name} +[A-Z]", overview())
        assert f"python -m experiments.{name}" in documentation(file)


@pytest.mark.parametrize("name", ["toy", "study"])
def test_help_spells_the_command_as_it_was_called(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/arcface-jax", name, "--help"])
    with pytest.raises(SystemExit) as stop:
        call()
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"arcface-jax {name}" in printed
    assert "python -m" not in printed


def test_an_unknown_command_is_one_line(type_command):
    status, _, said = type_command(call, "trian")
    assert status == 2
    assert said == "error: no command is called 'trian'; did you mean train?\n"
    assert "choose one of benchmark, compare, " in type_command(call, "zzz")[2]


def test_without_a_command_all_are_told(type_command):
    assert type_command(call)[:2] == (0, overview() + "\n")


def test_in_a_checkout_a_command_is_a_module(monkeypatch):
    assert command("train") == "python -m experiments.train"
    monkeypatch.setattr(sys, "argv", [r"/usr/local/bin/arcface-jax"])
    assert command("train") == "arcface-jax train"


def test_missing_packages_are_installed_by_extra_or_in_a_checkout_by_file(monkeypatch):
    assert install("onnx") == "pip install -r requirements-onnx.txt"
    monkeypatch.setattr(command_name, "_installed", lambda: True)
    assert install("onnx") == 'pip install "arcface-jax[onnx]"'
