"""A table of figures in formats to paste: text, Markdown, LaTeX, CSV, JSON."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

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

_LATEX = {character: f"\\{character}" for character in "%&_#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "°": r"$^\circ$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
}


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


def for_people(rows: Mapping[str, TableRow]) -> dict[str, TableRow]:
    """The rows as people read them: one interval for each figure.

    Accuracy and VAL have an interval over people, which says where they would lie had others been
    photographed. Their deviation over folds, which the published protocol gives, says something
    else of the same number; it is left out where there is the interval, and stays in CSV and JSON.
    """
    kept: dict[str, TableRow] = {}
    for row, figures in rows.items():
        second = {f"{name}_std" for name, figure in figures.items() if _has_interval(figure)}
        kept[row] = {name: figure for name, figure in figures.items() if name not in second}
    return kept


def _has_interval(figure: Interval | str) -> bool:
    return isinstance(figure, Interval) and figure.low < figure.high


def cells(rows: Mapping[str, TableRow]) -> list[list[str]]:
    """Cells as text, headings first: one row per key, one column per figure; "–" if absent."""
    rows = for_people(rows)
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    body = [
        [row, *(format_figure(name, figures[name]) if name in figures else "–" for name in names)]
        for row, figures in rows.items()
    ]
    return [["", *map(heading, names)], *body]


def to_text(rows: Mapping[str, TableRow]) -> str:
    """For a terminal: one block per row, one line per figure, so that it never grows too wide."""
    rows = for_people(rows)
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


Places = Collection[tuple[int, int]]
"""Cells of a table, by row and column from 0, without the header."""


def markdown_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: bool = True,
    bold: Places = (),
) -> str:
    """Any table as Markdown; with `numbers`, all columns but the first are right-aligned."""
    rule = ["---", *("---:" if numbers else "---" for _ in header[1:])]
    marked = _marked(rows, bold, "**{}**".format)
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in marked)
    titles = [title.replace("|", r"\|") for title in header]
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rule, *escaped))


def _marked(
    rows: Iterable[Sequence[str]], bold: Places, mark: Callable[[str], str]
) -> list[list[str]]:
    return [
        [mark(cell) if (row, column) in bold else cell for column, cell in enumerate(line)]
        for row, line in enumerate(rows)
    ]


def to_latex(rows: Mapping[str, TableRow]) -> str:
    """A `tabular` with the rules of the booktabs package."""
    header, *body = cells(rows)
    return latex_table(header, [("", body, ())])


def latex_table(
    header: Sequence[str],
    blocks: Iterable[tuple[str, Sequence[Sequence[str]], Places]],
    notes: Iterable[str] = (),
) -> str:
    """A `tabular` with the rules of the booktabs package; all text is escaped.

    Args:
      header: of the columns.
      blocks: rows that belong together: their heading, or "", the rows, and the bold cells.
      notes: lines below the table.
    """
    width = len(header)
    lines = [rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\toprule"]
    lines.append(_latex_row(map(latex, header)))
    for title, rows, bold in blocks:
        lines.append(r"\midrule")
        if title:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{latex(title)}}}}} \\")
        escaped = [[latex(cell) for cell in row] for row in rows]
        lines += map(_latex_row, _marked(escaped, bold, r"\textbf{{{}}}".format))
    lines.append(r"\bottomrule")
    lines += [rf"\multicolumn{{{width}}}{{l}}{{\footnotesize {latex(note)}}} \\" for note in notes]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def latex(text: str) -> str:
    """Text with every character escaped that LaTeX would take for its own."""
    # After \\\\ of the row before, [ would begin a length and * forbid a page break.
    start = "{}" if text.startswith(("[", "*")) else ""
    return start + "".join(_LATEX.get(character, character) for character in text)


def _latex_row(row: Iterable[str]) -> str:
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
