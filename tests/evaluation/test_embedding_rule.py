"""Which embeddings may be compared."""

import itertools

import pytest

from arcface_jax.errors import InputError
from arcface_jax.evaluation.embedding_rule import FLIP, NOT_TOLD, EmbeddingRule

CROPS = ("middle", "aligned", "face", "largest face")
TOGETHER = {*(frozenset([crop]) for crop in CROPS)} | {
    frozenset(["aligned", "face"]),
    frozenset(["aligned", "largest face"]),
}


def test_the_default_adds_the_mirror_image_of_the_middle():
    assert EmbeddingRule() == EmbeddingRule("add", "middle")
    assert FLIP == "add"


def test_every_two_rules_agree_or_do_not():
    flips = ("add", "concatenate", "none")
    rules = [EmbeddingRule(*each) for each in itertools.product(flips, CROPS)]
    for one, other in itertools.product(rules, rules):
        together = one.flip == other.flip and frozenset([one.crop, other.crop]) in TOGETHER
        assert one.agrees_with(other) == together, (one, other)
    for rule in rules:
        assert rule.agrees_with(NOT_TOLD)
        assert NOT_TOLD.agrees_with(rule)
        assert EmbeddingRule.from_json(rule.to_json()) == rule
        assert rule.agrees_with(EmbeddingRule(None, rule.crop))
        assert rule.agrees_with(EmbeddingRule(rule.flip, None))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (EmbeddingRule(), "--flip add and no --detect"),
        (EmbeddingRule("none", "face"), "--flip none --detect"),
        (
            EmbeddingRule("concatenate", "largest face"),
            "--flip concatenate --detect --face largest",
        ),
        (EmbeddingRule("add", "aligned"), "--flip add --aligned"),
        (EmbeddingRule("add", None), "--flip add and a crop that is not told"),
        (EmbeddingRule(None, "face"), "--detect and a mirror image that is not told"),
        (NOT_TOLD, "not told"),
    ],
)
def test_a_rule_is_said_as_the_options_that_ask_for_it(rule, said):
    assert str(rule) == said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "3",
        '"add"',
        "null",
        '{"flip": "add", "size": 3}',
        "[" * 100_000,
        '{"flip": {}}',
    ],
)
def test_another_text_is_no_rule(text):
    with pytest.raises(InputError):
        EmbeddingRule.from_json(text)


def test_an_unknown_rule_is_named():
    with pytest.raises(InputError, match="flip: 'mean' is unknown; use add, concatenate, none"):
        EmbeddingRule("mean")
    with pytest.raises(InputError, match="crop: 'corner' is unknown; use middle, aligned, face"):
        EmbeddingRule.from_json('{"crop": "corner"}')
