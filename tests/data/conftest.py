"""Small data sets that the data tests share."""

import pathlib
from typing import NamedTuple

import numpy as np
import pytest

from arcface_jax.data.decode import encode_png


class Golden(NamedTuple):
    """A record file as MXNet writes it, with what it holds."""

    rec: bytes
    idx: str
    payloads: list[bytes]


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden(
        rec=bytes.fromhex(
            "0a23d7ce1d0000000000000000000000010000000000000000000000000000004a504547610000000a23d7ce1e0000000000000000000000020000000000000000000000000000004a504547626200000a23d7ce1c000020000000000000803f03000000000000000000000000000000616263640a23d7ce04000060656667680a23d7ce20000000000000000000803f04000000000000000000000000000000780a23d7ce7979790a23d7ce200000000200000000000000050000000000000000000000000000000000803f000040400a23d7ce20000000020000000000000006000000000000000000000000000000000040400000a0400a23d7ce200000000200000000000000000000000000000001000000000000000000a0400000e040"
        ),
        idx="1\t0\n2\t40\n3\t80\n4\t128\n5\t168\n6\t208\n0\t248\n",
        payloads=[b"JPEGa", b"JPEGbb", b"abcd\x0a\x23\xd7\xceefgh", b"x\x0a\x23\xd7\xceyyy"],
    )


@pytest.fixture(scope="session")
def picture():
    """picture(n, height, width): image n of a made-up set; noise, so that no two are alike."""

    def make(number: int, height: int = 12, width: int = 12) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def write_tree(picture):
    """write_tree(root, {name: count}): a folder of PNG files, images numbered through."""

    def write(root: pathlib.Path, counts: dict[str, int]) -> pathlib.Path:
        number = 0
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for index in range(count):
                (root / name / f"{index}.png").write_bytes(encode_png(picture(number)))
                number += 1
        return root

    return write
