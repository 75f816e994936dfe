"""Writes an evaluation down: tables in every format, and one HTML page with pictures."""

import html
import pathlib
from collections.abc import Mapping, Sequence

from arcface_jax.commands.html_page import facts, page, paragraph, picture, table
from arcface_jax.evaluation.bootstrap import Interval
from arcface_jax.evaluation.comparison import Comparison
from arcface_jax.evaluation.suite import SetResult
from arcface_jax.evaluation.tables import FORMATS, TableRow, for_people, format_figure, heading
from arcface_jax.figures.evaluation_set import Picture
from arcface_jax.files import write_whole


def write_tables(rows: Mapping[str, TableRow], folder: pathlib.Path) -> list[pathlib.Path]:
    """table.txt, .md, .tex, .csv and .json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for extension, write in FORMATS.items():
        file = folder / f"table.{extension}"
        write_whole(file, write(rows))
        files.append(file)
    return files


def html_report(
    title: str,
    rows: Mapping[str, TableRow],
    sets: Mapping[str, tuple[SetResult, Sequence[Picture]]],
    comparisons: Mapping[str, Mapping[str, Comparison]],
    confidence: float,
    about: Sequence[Sequence[str]] = (),
) -> str:
    """The whole evaluation as one HTML page that needs no other file and no script.

    Args:
      title: of the page.
      rows: the table of figures.
      sets: result and pictures by name.
      comparisons: of several models on the same images.
      confidence: of the intervals.
      about: (what, its value) of what was evaluated, such as the model and how mirror images count.
    """
    shown = for_people(rows)
    intervals = (
        f"In brackets: {confidence:.0%} intervals, by a bootstrap over identities (over folds "
        "where identities are not known)."
    )
    if any(len(figures) < len(rows[name]) for name, figures in shown.items()):
        intervals += " The deviation over folds is in table.csv and table.json."
    parts = [facts("evaluate", about), paragraph(intervals), _figures_table(shown)]
    if comparisons:
        parts += ["<h2>Differences</h2>", _comparison_table(comparisons)]
    for name, (result, pictures) in sets.items():
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(_threshold_table(result, rows[name].get("rule")))
        if result.groups is not None:
            parts.append(_group_table(result))
        parts += [picture(each.file, each.caption) for each in pictures]
    return page(title, parts)


def _figures_table(rows: Mapping[str, TableRow]) -> str:
    """Sets as columns, for there are more figures than sets."""
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    body = [
        [heading(n), *(format_figure(n, f[n]) if n in f else "–" for f in rows.values())]
        for n in names
    ]
    return table(["", *rows], body)


def _comparison_table(comparisons: Mapping[str, Mapping[str, Comparison]]) -> str:
    body = []
    for pair, figures in comparisons.items():
        for name, c in figures.items():
            interval = f"[{100 * c.low:+.2f}, {100 * c.high:+.2f}]"
            numbers = (f"{100 * c.difference:+.2f}", interval, f"{c.p_value:.3f}")
            body.append([pair, name, *numbers, c.verdict])
    return table(["", "figure", "difference (%)", "interval", "p", "verdict"], body)


def _threshold_table(result: SetResult, rule: Interval | str | None) -> str:
    holds = "" if rule is None else f"<p>Of photos embedded alike: {html.escape(str(rule))}.</p>"
    body = []
    for found in result.thresholds:
        t, tar = found.threshold, found.tar
        threshold = f"{t.estimate:.4f} [{t.low:.4f}, {t.high:.4f}]"
        rate = f"{100 * tar.estimate:.2f} [{100 * tar.low:.2f}, {100 * tar.high:.2f}]"
        fars = (f"{found.wanted_far:g}", threshold, f"{found.far:.2g}")
        body.append([*fars, rate, found.warning or ""])
    header = ["wanted FAR", "threshold", "FAR here", "TAR (%)", "warning"]
    untold = "" if result.untold is None else f"<p>{html.escape(result.untold)}.</p>"
    return f"<h3>Thresholds to deploy</h3>{holds}{table(header, body)}{untold}"


def _with_interval(kind: str, rate: Interval) -> str:
    """The rate and its interval; said where there is none, as of a group without an error."""
    told = format_figure(kind, rate)
    return told if rate.low < rate.high else f"{told} (no interval: the same in every replicate)"


def _group_table(result: SetResult) -> str:
    groups = result.groups
    assert groups is not None
    kinds = {"far": groups.far, "frr": groups.frr}
    body = []
    for name in sorted(set(groups.far) | set(groups.frr)):
        cells = (_with_interval(k, r[name]) if name in r else "–" for k, r in kinds.items())
        body.append([name, *cells])
    body.append(["gap", *(_with_interval(kind, groups.gaps[kind]) for kind in kinds)])
    header = ["group", "FAR (%)", "FRR (%)"]
    return "<h3>Rates by group, at one threshold</h3>" + table(header, body)
