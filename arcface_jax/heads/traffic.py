"""What a compiled program sends between devices, read from the program itself."""

import math
import re
from collections import Counter
from collections.abc import Iterator

import jax.numpy as jnp

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(rf"= (?P<shapes>[^=]*?) (?P<kind>{'|'.join(COLLECTIVES)})(?:-start)?\(")
_COMMENT = re.compile(r"/\*.*?\*/")  # /*index=5*/ before every fifth of many shapes
_SHAPE = re.compile(r"(?P<dtype>[a-z]+\d+|pred)\[(?P<dims>[\d,]*)\]")
_NAMES = {"pred": "bool", "bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64"}


def _item_bytes(dtype: str) -> int:
    name = _NAMES.get(dtype) or dtype.replace("s", "int", 1).replace("u", "uint", 1)
    return jnp.dtype(name).itemsize


def collectives(program: str) -> list[tuple[str, list[tuple[int, ...]]]]:
    """(kind, shapes of what it puts out on one device) of a program's collectives, in its order.

    Args:
      program: optimised HLO text, `compiled.as_text()`.
    """
    return [(kind, [shape for _, shape in arrays]) for kind, arrays in _parsed(program)]


def _parsed(program: str) -> Iterator[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    for instruction in _INSTRUCTION.finditer(_COMMENT.sub("", program)):
        arrays = _SHAPE.finditer(instruction["shapes"])
        yield (
            instruction["kind"],
            [
                (one["dtype"], tuple(map(int, filter(None, one["dims"].split(",")))))
                for one in arrays
            ],
        )


def collective_bytes(program: str) -> Counter[str]:
    """Bytes of what the collectives of a program put out on one device, by kind.

    An all-gather puts out what it gathered, [N, …]; a reduce-scatter its own part, though N's worth
    was sent. An instruction within a loop counts once.

    Args:
      program: optimised HLO text, `compiled.as_text()`.

    Returns: bytes by kind of collective.
    """
    total: Counter[str] = Counter()
    for kind, arrays in _parsed(program):
        total[kind] += sum(_item_bytes(dtype) * math.prod(shape) for dtype, shape in arrays)
    return total
