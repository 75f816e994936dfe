"""One HTML file that needs no other file and no script: tables, and pictures inside."""

import base64
import html
import io
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from arcface_jax.command_name import typed_command

LIGHT = {"page": "#ffffff", "text": "#222222", "quiet": "#555555", "line": "#dddddd"}
DARK = {"page": "#16181c", "text": "#e6e6e6", "quiet": "#a8adb5", "line": "#3a3f47"}
"""Colours of a page on a light and on a dark screen; the browser says which it is. Pictures are on
white in both.
"""


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


_STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
.light {{ color-scheme: light; {_variables(LIGHT)} }}
.dark {{ color-scheme: dark; {_variables(DARK)} }}
.light, .dark {{ background: var(--page); color: var(--text); padding: 1rem; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; background: var(--page); color: var(--text); overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }}
th, td {{ padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
th:first-child, td:first-child {{ text-align: left; }}
figure {{ margin: 1.5rem 0; }} figcaption {{ color: var(--quiet); font-size: .9rem; }}
img {{ max-width: 100%; background: #ffffff; border-radius: 4px; }}
code {{ font: .9em ui-monospace, monospace; }}
.words td {{ text-align: left; overflow-wrap: anywhere; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.cards figure {{ margin: 0; width: 15rem; overflow-wrap: anywhere; }}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """The whole file; `parts` are HTML."""
    head = (
        '<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    heading = f"<h1>{html.escape(title)}</h1>"
    return "\n".join(["<!DOCTYPE html>", head, heading, *parts, "</html>", ""])


def facts(name: str, rows: Sequence[Sequence[str]]) -> str:
    """What a report is of: `rows`, the date, and the command line of the command `name`."""
    told = [*rows, ("date", time.strftime("%Y-%m-%d %H:%M %Z").strip())]
    if (typed := typed_command(name)) is not None:
        told.append(("command", typed))
    return table(["", ""], told, words=True)


def paragraph(text: str, tag: str = "p") -> str:
    """Text as a paragraph, or as a heading of another tag."""
    return f"<{tag}>{html.escape(text)}</{tag}>"


def table(header: Sequence[str], body: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """A table of text; the first column, or all with `words`, aligned to the left."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in body]
    kind = ' class="words"' if words else ""
    first = f"<tr>{head}</tr>" if any(header) else ""
    return f"<table{kind}>{first}" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def picture(file: pathlib.Path, caption: str) -> str:
    """A PNG file, inside the page."""
    data = base64.b64encode(file.read_bytes()).decode()
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" '
        f'src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def card(images: Sequence[np.ndarray], lines: Sequence[str]) -> str:
    """Thumbnails of uint8 [height, width, 3] images, of 112 pixels at most, above lines of text."""
    pictures = "".join(f'<img alt="" src="{_thumbnail(image)}"> ' for image in images)
    text = "<br>".join(html.escape(line) for line in lines)
    return f"<figure>{pictures}<figcaption>{text}</figcaption></figure>"


def cards(parts: Sequence[str]) -> str:
    """Several of `card`, side by side."""
    return f'<div class="cards">{"".join(parts)}</div>'


def _thumbnail(image: np.ndarray) -> str:
    small, file = Image.fromarray(image), io.BytesIO()
    small.thumbnail((112, 112))
    small.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
