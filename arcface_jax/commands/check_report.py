"""The findings on a data set as files: check.html to look at, check.csv to work through."""

import csv
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from arcface_jax.commands.html_page import card, cards, facts, page, paragraph, picture, table
from arcface_jax.counts import number_of
from arcface_jax.data.check import Finding, Row
from arcface_jax.data.source import FaceSource
from arcface_jax.errors import InputError, printable
from arcface_jax.files import whole_text, write_whole

PAGE_FILE, LIST_FILE = "check.html", "check.csv"
COLUMNS = (
    "finding",
    "image",
    "identity",
    "other_image",
    "other_identity",
    "number",
    "measure",
    "note",
)
_SHOWN = 20
_LONGEST = 200
_FORMULA = ("=", "+", "-", "@")


def write_list(path: pathlib.Path, source: FaceSource, findings: Sequence[Finding]) -> None:
    """Writes a CSV file with a line for each image, pair or file of every finding.

    Its columns are `COLUMNS`. Text that a spreadsheet would take for a formula, as it begins with
    =, +, - or @, has a ' before it.
    """
    with whole_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for finding in findings:
            for row in finding.rows or (Row(None, note=finding.summary),):
                names = _names(source, finding, row)
                number = "" if row.number is None else f"{row.number:g}"
                measure = finding.measure if number else ""
                texts = [_safe(text) for text in (finding.kind, *names, measure, row.note)]
                writer.writerow([*texts[:5], number, *texts[5:]])


def write_page(
    path: pathlib.Path,
    source: FaceSource,
    findings: Sequence[Finding],
    lines: Sequence[str],
    sheet: pathlib.Path,
) -> None:
    """Writes one HTML file that needs no other, with up to 20 images or pairs of every finding.

    Args:
      path: the file.
      source: where the images are.
      findings: what deserves a look.
      lines: what to say of the whole set.
      sheet: a PNG file of the contact sheet.
    """
    about = [("data", f"{number_of(len(source), 'image')}, fingerprint {source.fingerprint[:12]}")]
    parts = [facts("train", about), *(paragraph(line) for line in lines)]
    rows = [[finding.kind, f"{len(finding.rows) or 1:,}"] for finding in findings]
    parts.append(
        table(["finding", "number"], rows) if rows else paragraph("Nothing deserves a look.")
    )
    for finding in findings:
        parts += [paragraph(finding.kind, "h2"), paragraph(finding.summary)]
        parts.append(cards(list(_cards(source, finding))))
        if len(finding.rows) > _SHOWN:
            parts.append(
                paragraph(f"{_SHOWN} of {len(finding.rows):,}; all of them are in {LIST_FILE}.")
            )
    parts.append(picture(sheet, "Random identities, a row each, with the files of the images."))
    write_whole(path, page("What deserves a look", parts))


def _cards(source: FaceSource, finding: Finding) -> Iterator[str]:
    for row in finding.rows[:_SHOWN]:
        image, identity, other_image, other_identity = _names(source, finding, row)
        sources = ((source, row.image), (finding.other or source, row.other))
        images = [_read(each, index) for each, index in sources if index is not None]
        number = "" if row.number is None else f"{finding.measure}: {row.number:.4g}"
        lines = [image, f"identity {identity}" if identity else ""]
        if other_image:
            lines += [other_image, f"identity {other_identity}"]
        shown = [_short(line) for line in (*lines, number, row.note) if line]
        yield card([each for each in images if each is not None], list(dict.fromkeys(shown)))


def _names(source: FaceSource, finding: Finding, row: Row) -> tuple[str, str, str, str]:
    """Where the row's image is, its identity, and the same of the other image."""
    if row.image is None:
        return row.file, "", "", ""
    names = _name(source, row.image)
    return names + (("", "") if row.other is None else _name(finding.other or source, row.other))


def _name(source: FaceSource, index: int) -> tuple[str, str]:
    return source.where(index), printable(str(source.identity_names[int(source.labels[index])]))


def _read(source: FaceSource, index: int) -> np.ndarray | None:
    try:
        return source[index]
    except InputError:
        return None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:60]} … {text[60 - _LONGEST :]}"


def _safe(text: str) -> str:
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
