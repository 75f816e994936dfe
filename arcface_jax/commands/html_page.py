"""One HTML file that needs no other file and no script: tables, and pictures inside."""

import base64
import html
import io
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right;
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #555; font-size: .9rem; }
.words td { text-align: left; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; }
.cards figure { margin: 0; width: 15rem; overflow-wrap: anywhere; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """The whole file; `parts` are HTML."""
    head = (
        '<html lang="en"><meta '
        f'charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    )
    heading = f"<h1>{html.escape(title)}</h1>"
    return "\n".join(["<!DOCTYPE html>", head, heading, *parts, "</html>", ""])


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
