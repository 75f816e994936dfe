import csv
import io
import json

import pytest

from arcface_jax.evaluation.bootstrap import Interval
from arcface_jax.evaluation.tables import (
    latex,
    latex_table,
    markdown_table,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
    to_text,
)

ROWS = {
    "model_a": {
        "accuracy": Interval(0.99534, 0.9941, 0.9968),
        "tar@far=0.001": Interval(0.25, 0.25, 0.25),
        "num_same": Interval(3000, 3000, 3000),
        "threshold": Interval(0.31239, 0.3, 0.32),
    },
    "b|c": {"accuracy": Interval(0.5, 0.4, 0.6), "angle intra": Interval(38.454, 38.454, 38.454)},
}


def test_text_has_a_line_for_each_figure() -> None:
    lines = to_text(ROWS).splitlines()
    assert lines[0] == "model_a"
    assert lines[1].split() == ["accuracy", "(%)", "99.53", "[99.41,", "99.68]"]
    assert [line.split()[-1] for line in lines[2:4]] == ["25.00", "3000"]
    assert lines[4].strip().startswith("best threshold")
    assert lines[4].endswith("0.3124 [0.3000, 0.3200]")
    assert lines[-1].split() == ["Intra", "38.45°"]


def test_people_read_one_interval_for_each_number() -> None:
    of_folds = Interval(0.0052, 0.0052, 0.0052)
    rows = {
        "lfw": {
            "accuracy": Interval(0.994, 0.9903, 0.9963),
            "accuracy_std": of_folds,
            "val": Interval(0.98, 0.98, 0.98),  # without an interval its deviation stays
            "val_std": of_folds,
        }
    }
    for text in (to_text(rows), to_markdown(rows), to_latex(rows)):
        assert "99.40 [99.03, 99.63]" in text
        assert "deviation over folds" not in text
        assert "VAL's deviation" in text
    assert json.loads(to_json(rows))["lfw"]["accuracy_std"]["estimate"] == 0.0052
    assert "lfw,accuracy_std,0.0052" in to_csv(rows)


def test_markdown_aligns_and_escapes() -> None:
    lines = to_markdown(ROWS).splitlines()
    assert (
        lines[0] == "|  | accuracy (%) | TAR@FAR=0.001 (%) | same pairs | best threshold | Intra |"
    )
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[3] == r"| b\|c | 50.00 [40.00, 60.00] | – | – | – | 38.45° |"


def test_any_table_is_written_and_escaped_the_same_way() -> None:
    table = markdown_table(("a|b", "n"), [("x|y", "1"), ("z", "2")])
    assert table == "| a\\|b | n |\n| --- | ---: |\n| x\\|y | 1 |\n| z | 2 |\n"
    assert markdown_table(("a", "b"), [], numbers=False) == "| a | b |\n| --- | --- |\n"


def test_latex_escapes_what_would_break_it() -> None:
    text = to_latex(ROWS)
    assert text.startswith("\\begin{tabular}{lrrrrr}\n\\toprule\n")
    assert r"accuracy (\%) & TAR@FAR=0.001 (\%)" in text
    assert (
        r"model\_a & 99.53 [99.41, 99.68] & 25.00 & 3000 & 0.3124 [0.3000, 0.3200] & -- \\" in text
    )
    assert r"38.45$^\circ$ \\" in text
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")


def test_blocks_of_rows_have_headings_notes_and_bold_cells() -> None:
    text = latex_table(
        ("loss", "accuracy, %"),
        [("a & b", [["my_loss", "90.1 ± 2.0"], ["[b]", "–"]], {(0, 1)}), ("", [["*", "1"]], ())],
        ["5 %"],
    )
    assert text.splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"loss & accuracy, \% \\",
        r"\midrule",
        r"\multicolumn{2}{l}{\textit{a \& b}} \\",
        r"my\_loss & \textbf{90.1 $\pm$ 2.0} \\",
        r"{}[b] & -- \\",
        r"\midrule",
        r"{}* & 1 \\",
        r"\bottomrule",
        r"\multicolumn{2}{l}{\footnotesize 5 \%} \\",
        r"\end{tabular}",
    ]
    assert markdown_table(("a", "b"), [("x", "1")], bold={(0, 1)}).endswith("| x | **1** |\n")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b%&#${}", r"a\_b\%\&\#\$\{\}"),
        (r"C:\x", r"C:\textbackslash{}x"),
        (
            "x^2 ~ <1> |y|",
            r"x\textasciicircum{}2 \textasciitilde{} \textless{}1\textgreater{} "
            r"\textbar{}y\textbar{}",
        ),
        ("−1.5°", r"$-$1.5$^\circ$"),
        ("Zürich", "Zürich"),
    ],
)
def test_every_character_of_latex_is_escaped(text: str, escaped: str) -> None:
    assert latex(text) == escaped


def test_csv_and_json_keep_every_digit() -> None:
    table = list(csv.DictReader(io.StringIO(to_csv(ROWS))))
    assert len(table) == 6
    assert table[0] == {
        "row": "model_a",
        "figure": "accuracy",
        "estimate": "0.99534",
        "low": "0.9941",
        "high": "0.9968",
    }
    assert json.loads(to_json(ROWS))["b|c"]["accuracy"] == {
        "estimate": 0.5,
        "low": 0.4,
        "high": 0.6,
    }
