"""This library's docstrings as reStructuredText: their equations are plain text, indented, and stay
as they are.

The sections Args, Raises, Attributes … are Napoleon's; what is left is done here, before it.
"""

import re
from collections.abc import Iterator
from typing import Any

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|References):$")
_FIELD = re.compile(r"^(Returns|Yields): (.*)$")
_REFERENCES = re.compile(r"^References: (.*)$")
_BULLET = re.compile(r"^( *)\*(?= )")
_CODE = re.compile(r"(`[^`]*`)")
_MAYBE_A_NAME = re.compile(r"`(?=[\w.]*[A-Z_.])[A-Za-z][\w.]*`")


def escape(line: str) -> str:
    """A line in which nothing is markup but `code`: a link if it may be a name of this library,
    else as it is.
    """
    parts = _CODE.split(line)
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = part if _MAYBE_A_NAME.fullmatch(part) else f"`{part}`"
        else:
            text = re.sub(r"([*|\\])", r"\\\1", part)
            text = re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)
            parts[number] = re.sub(r"(?<=: )(\w)\.(?= |$)", r"\1\\.", text)  # "rows: N." is no list
    return "".join(parts)


def to_restructured_text(lines: list[str]) -> list[str]:
    """The docstring's lines, for Napoleon."""
    return list(_converted(lines))


def _converted(lines: list[str]) -> Iterator[str]:
    in_section, in_equation, after_blank = False, False, True
    for line in lines:
        indented = line.startswith(" ")
        if line.strip():
            if not indented:
                in_section = in_equation = False
            if indented and not in_section and not in_equation and after_blank:
                in_equation = True
                yield from ("::", "")
        if in_equation:
            yield line
        elif _SECTION.match(line):
            in_section = True
            yield line
        elif found := _FIELD.match(line):
            in_section = True
            if not after_blank:
                yield ""
            yield f":{found[1]}: {escape(found[2])}"
        elif found := _REFERENCES.match(line):
            in_section = True
            yield f"References: {escape(found[1])}"
        else:
            yield escape(_BULLET.sub(r"\1-", line))
        after_blank = not line.strip()


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_restructured_text(lines)


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what nobody wrote: the fields of a named tuple, and Flax's additions to a
    module.
    """
    document = getattr(obj, "__doc__", None) or ""
    return True if document.startswith("Alias for field number") else None


def connect(app: Any) -> None:
    """Before Napoleon, whose own handler has the usual priority of 500."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-skip-member", _skip)
