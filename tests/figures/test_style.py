"""Pictures are saved in each format, alike every time."""

import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.style import FORMATS, new_figure, save


def line():
    figure = new_figure(2.0, 1.0)
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def test_equal_pictures_give_equal_files(tmp_path):
    first = save(line(), tmp_path / "a" / "line.v1", FORMATS)
    second = save(line(), tmp_path / "b" / "line.v1", FORMATS)
    assert [file.name for file in first] == ["line.v1.png", "line.v1.svg", "line.v1.pdf"]
    for one, other, start in zip(first, second, (b"\x89PNG", b"<?xml", b"%PDF"), strict=True):
        assert one.read_bytes().startswith(start)
        assert one.read_bytes() == other.read_bytes()


def test_another_format_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="format is 'bmp'; pass one of png, svg, pdf"):
        save(line(), tmp_path / "new" / "line", ("png", "bmp"))
    assert not (tmp_path / "new").exists()
