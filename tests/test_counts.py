"""Numbers of things in messages."""

import pytest

from arcface_jax.counts import number_of


@pytest.mark.parametrize(
    ("count", "noun", "verb", "said"),
    [
        (1, "image", "", "1 image"),
        (0, "image", "", "0 images"),
        (2000, "image", "", "2,000 images"),
        (1.0, "person", "", "1 person"),
        (3, "training identity", "have", "3 training identities have"),
        (1, "training identity", "have", "1 training identity has"),
        (2, "new class", "are", "2 new classes are"),
        (1, "new class", "are", "1 new class is"),
        (1, "number", "that are", "1 number that is"),
        (5, "number", "that are", "5 numbers that are"),
        (1, "folder", "hold", "1 folder holds"),
        (2, "batch", "do", "2 batches do"),
        (1, "day", "do", "1 day does"),
        (2, "day", "were", "2 days were"),
    ],
)
def test_a_noun_and_its_verb_agree_with_the_number(count, noun, verb, said):
    assert number_of(count, noun, verb) == said
