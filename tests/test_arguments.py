"""Checks name the argument and its value, and leave traced values alone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.arguments import (
    check_between,
    check_choice,
    check_floating,
    check_labels,
    check_positive,
)
from arcface_jax.errors import InputError


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.uint32])
def test_labels_of_any_integer_kind(dtype):
    assert check_labels(np.array([0, 3], dtype), 2, 4).tolist() == [0, 3]
    with pytest.raises(InputError, match=r"labels\[1\] is 3; pass a class, 0 to 2, or −1"):
        check_labels(np.array([0, 3], dtype), 2, 3)


def test_a_label_beyond_32_bits_is_no_class():
    with pytest.raises(InputError, match=r"labels\[1\] is 4294967296; pass a class, 0 to 9"):
        check_labels(np.array([0, 2**32]), 2, 10)


def test_labels_without_an_upper_end_and_without_rows():
    assert check_labels([10**6, -1], 2).tolist() == [10**6, -1]
    assert check_labels(np.zeros(0, int), 0, 5).shape == (0,)


def test_floating_arrays():
    assert check_floating("x", np.ones((2, 3), np.float16), 2).dtype == jnp.float16
    with pytest.raises(InputError, match="x has dtype int32; pass floating-point numbers"):
        check_floating("x", jnp.ones((2, 3), jnp.int32), 2)
    with pytest.raises(InputError, match=r"x has shape \(2,\); pass an array with 2 or 3 axes"):
        check_floating("x", np.ones(2), (2, 3))


@pytest.mark.parametrize(
    ("value", "low", "high", "message"),
    [
        (2.0, 0.0, 1.0, r"m is 2; pass a number in \[0, 1\]"),
        (math.nan, 0.0, 1.0, "m is nan"),
        (math.inf, 0.0, math.inf, "m is inf; pass a finite number not below 0"),
        (np.array([0.5, -3.0, 7.0]), 0.0, 1.0, "m is -3"),
    ],
)
def test_numbers_out_of_range(value, low, high, message):
    with pytest.raises(InputError, match=message):
        check_between("m", value, low, high)


def test_zero_is_not_positive_and_choices_are_listed():
    check_positive("s", 1e-9)
    with pytest.raises(InputError, match="s is 0; pass a finite number above 0"):
        check_positive("s", 0)
    with pytest.raises(InputError, match="kind is 'c'; pass one of a, b"):
        check_choice("kind", "c", ("a", "b"))


def test_traced_values_pass():
    def function(x, labels):
        check_positive("x", x)
        check_labels(labels, 2, 3)
        return x

    assert float(jax.jit(function)(-1.0, jnp.array([7, 8]))) == -1.0
