"""A table of figures in formats to paste: text, Markdown, LaTeX, CSV, JSON."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from arcface_jax.evaluation.bootstrap import Interval

TableRow = Mapping[str, Interval | str]
"""Figures of one row by name, or text. Without an interval the ends equal the estimate."""

_NAMES = {
    "rule": "scores by",
    "accuracy_std": "deviation over folds (%)",
    "threshold": "best threshold",
    "val": "VAL@FAR=0.001, mean over folds (%)",
    "val_std": "VAL's deviation (%)",
    "val_far": "FAR at VAL (%)",
    "published_accuracy": "accuracy by the published scripts (%)",
    "published_accuracy_std": "its deviation over folds (%)",
    "published_val": "VAL@FAR=0.001 by the published scripts (%)",
    "published_val_std": "that VAL's deviation (%)",
    "published_val_far": "FAR at that VAL (%)",
    "eer": "EER (%)",
    "auc": "AUC (%)",
    "cllr": "Cllr, bits",
    "ece": "ECE of the probability (%)",
    "num_same": "same pairs",
    "num_different": "different pairs",
    "num_gallery": "entries of the gallery",
    "num_enrolled": "probes of enrolled people",
    "num_unknown": "probes of unknown people",
    "num_failed_to_enrol": "templates that failed to enrol",
    "r_precision": "R-precision (%)",
    "map@r": "MAP@R (%)",
    "map": "mAP (%)",
    "angle intra": "Intra",
    "angle inter": "Inter",
    "angle w_ec": "W-EC",
    "angle w_inter": "W-Inter",
}

_LATEX = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}


def format_figure(name: str, figure: Interval | str) -> str:
    """A figure as papers print it (rates in percent, whole counts), then its interval; text stays
    as is.
    """
    if isinstance(figure, str):
        return figure
    number = _formatter(name)
    if figure.low == figure.high:
        return number(figure.estimate)
    return f"{number(figure.estimate)} [{number(figure.low)}, {number(figure.high)}]"


def _formatter(name: str) -> Callable[[float], str]:
    if name.startswith("num_"):
        return lambda value: f"{value:.0f}"
    if name in ("threshold", "cllr"):
        return lambda value: f"{value:.4f}"
    if name.startswith("angle"):
        return lambda value: f"{value:.2f}°"
    return lambda value: f"{100 * value:.2f}"


def heading(name: str) -> str:
    """A column's heading: the figure's name as papers write it, with its unit."""
    if name in _NAMES:
        return _NAMES[name]
    if name.startswith("macro "):
        return f"macro {heading(name.removeprefix('macro '))}"
    for prefix, written in (("tar@far=", "TAR@FAR="), ("tpir@fpir=", "TPIR@FPIR=")):
        if name.startswith(prefix):
            return f"{written}{name.removeprefix(prefix)} (%)"
    return f"{name} (%)"


def cells(rows: Mapping[str, TableRow]) -> list[list[str]]:
    """Cells as text, headings first: one row per key, one column per figure; "–" if absent."""
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    body = [
        [row, *(format_figure(name, figures[name]) if name in figures else "–" for name in names)]
        for row, figures in rows.items()
    ]
    return [["", *map(heading, names)], *body]


def to_text(rows: Mapping[str, TableRow]) -> str:
    """For a terminal: one block per row, one line per figure, so that it never grows too wide."""
    width = max((len(heading(name)) for figures in rows.values() for name in figures), default=0)
    blocks = []
    for row, figures in rows.items():
        lines = [
            f"  {heading(name):<{width}}  {format_figure(name, figure)}"
            for name, figure in figures.items()
        ]
        blocks.append("\n".join([row, *lines]))
    return "\n\n".join(blocks) + "\n"


def to_markdown(rows: Mapping[str, TableRow]) -> str:
    """A Markdown table, numbers aligned to the right."""
    header, *body = cells(rows)
    return markdown_table(header, body)


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True
) -> str:
    """Any table as Markdown; with `numbers`, all columns but the first are right-aligned."""
    rule = ["---", *("---:" if numbers else "---" for _ in header[1:])]
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    titles = [title.replace("|", r"\|") for title in header]
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rule, *escaped))


def to_latex(rows: Mapping[str, TableRow]) -> str:
    """A `tabular` with the rules of the booktabs package."""
    table = [[_latex(cell) for cell in row] for row in cells(rows)]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(table[0]) - 1)}}}",
        r"\toprule",
        _latex_row(table[0]),
        r"\midrule",
    ]
    lines += [_latex_row(row) for row in table[1:]]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex(cell: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in cell.replace("\\", "/"))
    return escaped.replace("–", "--").replace("°", r"$^\circ$")


def _latex_row(row: Sequence[str]) -> str:
    return " & ".join(row) + r" \\"


def to_csv(rows: Mapping[str, TableRow]) -> str:
    """One line per figure: row, figure, estimate, low, high, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "figure", "estimate", "low", "high"])
    for row, figures in rows.items():
        for name, f in figures.items():
            numbers = [f, "", ""] if isinstance(f, str) else map(repr, dataclasses.astuple(f))
            writer.writerow([row, name, *numbers])
    return text.getvalue()


def to_json(rows: Mapping[str, TableRow]) -> str:
    """{row: {figure: {"estimate": …, "low": …, "high": …} or words}}, with all digits."""
    content = {
        row: {
            name: f if isinstance(f, str) else dataclasses.asdict(f) for name, f in figures.items()
        }
        for row, figures in rows.items()
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Mapping[str, TableRow]], str]] = {
    "txt": to_text,
    "md": to_markdown,
    "tex": to_latex,
    "csv": to_csv,
    "json": to_json,
}
"""File extension → writer."""
