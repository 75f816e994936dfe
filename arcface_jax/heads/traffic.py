"""What a compiled program sends between devices, read from the program itself."""

import re
from collections import Counter

import jax.numpy as jnp

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(rf"= (?P<shapes>[^=]*?) (?P<kind>{'|'.join(COLLECTIVES)})(?:-start)?\(")
_SHAPE = re.compile(r"(?P<dtype>[a-z]+\d+|pred)\[(?P<dims>[\d,]*)\]")
_NAMES = {"pred": "bool", "bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64"}


def _bytes_of(dtype: str, dims: str) -> int:
    name = _NAMES.get(dtype) or dtype.replace("s", "int", 1).replace("u", "uint", 1)
    count = 1
    for size in filter(None, dims.split(",")):
        count *= int(size)
    return count * jnp.dtype(name).itemsize


def collective_bytes(program: str) -> Counter[str]:
    """Bytes of what the collectives of a program put out on one device, by kind.

    An all-gather puts out what it gathered, [N, …]; a reduce-scatter its own part, though N's worth
    was sent. An instruction within a loop counts once.

    Args:
      program: optimised HLO text, `compiled.as_text()`.

    Returns: bytes by kind of collective.
    """
    total: Counter[str] = Counter()
    for instruction in _INSTRUCTION.finditer(program):
        shapes = _SHAPE.finditer(instruction["shapes"])
        total[instruction["kind"]] += sum(
            _bytes_of(shape["dtype"], shape["dims"]) for shape in shapes
        )
    return total
