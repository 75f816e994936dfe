"""The command that draws: names, formats, a figure's own arguments, and what it says of
mistakes.
"""

import pathlib
import re

import pytest
from matplotlib.figure import Figure

from arcface_jax.figures.examples import EXAMPLES
from experiments import figures


@pytest.fixture
def registry(monkeypatch):
    """Three small entries: a figure with an argument, one that needs a file, and one that is
    several.
    """
    drawn = []

    def plain(width: float = 1.0) -> Figure:
        drawn.append(width)
        return Figure(figsize=(width, 1.0))

    def of_a_file(file: pathlib.Path) -> Figure:
        drawn.append(file)
        return Figure(figsize=(1.0, 1.0))

    def several() -> dict[str, Figure]:
        return {"left": Figure(figsize=(1.0, 1.0)), "right": Figure(figsize=(1.0, 1.0))}

    monkeypatch.setattr(
        figures, "FIGURES", {"plain": plain, "of_a_file": of_a_file, "several": several}
    )
    return drawn


def test_names_formats_and_several_figures(type_command, registry, tmp_path):
    status, out, _ = type_command(
        figures.main, "plain", "several", "--folder", tmp_path / "new", "--formats", "png", "svg"
    )
    assert status == 0
    files = [
        tmp_path / "new" / f"{name}.{kind}"
        for name in ("plain", "left", "right")
        for kind in ("png", "svg")
    ]
    assert out.split() == [str(file) for file in files]
    assert all(file.stat().st_size for file in files)


def test_a_figures_own_arguments_come_after_dashes(type_command, registry, tmp_path):
    assert type_command(figures.main, "plain", "--folder", tmp_path, "--", "--width", "2.5")[0] == 0
    assert (
        type_command(figures.main, "of_a_file", "--folder", tmp_path, "--", "--file", "a.npz")[0]
        == 0
    )
    assert registry == [2.5, pathlib.Path("a.npz")]
    assert type_command(figures.main, "plain", "--", "--depth", "2")[0] == 2


def test_all_leaves_out_what_needs_a_file(type_command, registry, tmp_path):
    status, out, _ = type_command(figures.main, "--all", "--folder", tmp_path)
    assert status == 0
    assert [pathlib.Path(line).name for line in out.split()] == [
        *(f"{name}.png" for name in ("plain", "left", "right")),
        "figures.html",
    ]
    page = (tmp_path / "figures.html").read_text()
    shown = re.findall('<div class="(light|dark)">(.*?)</div>', page)
    for scheme in ("light", "dark"):
        pictures = [re.findall('src="([^"]*)"', part) for name, part in shown if name == scheme]
        assert pictures == [["plain.png"], ["left.png", "right.png"]]


def test_every_example_is_drawn_by_name():
    assert {f"example_{name}" for name in EXAMPLES} < set(figures.FIGURES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no figure named; choose among plain, of_a_file, several, or --all"),
        (["circle"], "no figure is called 'circle'"),
        (
            ["of_a_file"],
            "figure 'of_a_file' needs arguments; python -m experiments.figures of_a_file -- "
            "--help tells",
        ),
        (
            ["plain", "several", "--", "--width", "2"],
            "options after -- are for one figure, not for plain, several",
        ),
        (["plain", "--all"], "--all and plain; name figures or draw all, not both"),
    ],
)
def test_a_mistake_is_one_line(type_command, registry, arguments, message):
    status, out, error = type_command(figures.main, *arguments)
    assert status == 2
    assert not out
    assert error.startswith(f"error: {message}")


def test_the_real_entries_take_options(tmp_path):
    drawn = figures.draw("margin_rules_arcface")
    assert list(drawn) == ["margin_rules_arcface"]
    assert list(figures.draw("layer", ["--margin", "0.3"])) == ["layer"]
    assert not any(
        figures.needs_arguments(figures.FIGURES[name])
        for name in ("faces", "layer", "margin_rules_cm1")
    )
