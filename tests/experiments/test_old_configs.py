"""A config.json whose loss section has every field, as before a loss had fields of its own."""

import dataclasses
import json

import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import LOSSES, MagFace
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import config_to_json, read_config

UNSET = {
    "margin": None,
    "scale": None,
    "past_pi": "none",
    "gradient": "exact",
    "margin_warmup": 0.0,
    "sub_centers": 1,
    "label_smoothing": 0.0,
    "filter_threshold": None,
    "precision": "highest",
}


@pytest.fixture
def read(tmp_path):
    def loss(**fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"loss": UNSET | fields}))
        return read_config(file).loss

    return loss


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_loss_with_its_own_numbers(read, name):
    loss = read(name=name)
    fields = {field.name for field in dataclasses.fields(loss)}
    scale = {"scale": 16.0} if "scale" in fields else {}
    assert loss == LOSSES[name](**scale)


def test_a_rule_past_pi_that_was_chosen_is_kept(tmp_path):
    config = Config(loss=MagFace(past_pi="none"))
    (tmp_path / "config.json").write_text(config_to_json(config))
    assert read_config(tmp_path / "config.json") == config


def test_what_is_set_is_read(read):
    loss = read(name="cosface", margin=0.2, scale=64.0, margin_warmup=0.5, label_smoothing=0.1)
    assert loss == LOSSES["cosface"](margin=0.2, scale=64.0, margin_warmup=0.5, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("softmax", "margin", 0.5),
        ("softmax", "scale", 64.0),
        ("magface", "margin_warmup", 0.5),
        ("cosface", "past_pi", "linear"),
        ("triplet", "sub_centers", 3),
        ("softmax", "precision", "high"),
    ],
)
def test_what_the_loss_has_not_is_refused(read, name, field, value):
    with pytest.raises(InputError, match=rf"config.json: section loss .*{field}") as refused:
        read(name=name, **{field: value})
    assert "\n" not in str(refused.value)


def test_a_configuration_is_read_as_it_was_written(tmp_path):
    config = Config(loss=MagFace(scale=32.0, l_m=0.4))
    (tmp_path / "config.json").write_text(config_to_json(config))
    assert read_config(tmp_path / "config.json") == config
