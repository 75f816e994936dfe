"""What `--help` and `--help-all` print, and the nearest name to one that is unknown.

tyro reads the options and helps with all of them, in boxes of several lines each; here the same
dataclass becomes a page that fits a screen.
"""

import dataclasses
import difflib
import inspect
import pathlib
import re
import shutil
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from arcface_jax.errors import InputError

_WIDEST = 100
_COLUMN = 26
"""Where the explanations begin, but for options too long to stand beside them."""
_WORDS = {int: "INT", float: "FLOAT", str: "TEXT", pathlib.Path: "PATH"}


@dataclasses.dataclass(frozen=True)
class Option:
    """An option, or an argument without one, as a page shows it.

    Attributes:
      name: as typed, --run.steps; of an argument MODEL.
      values: what follows it; empty for a switch.
      about: its documentation.
      section: the heading that it stands under.
      default: what holds where it is not given; empty if that is nothing.
      negated: as typed to turn a switch off.
    """

    name: str
    values: str
    about: str
    section: str = ""
    default: str = ""
    negated: str | None = None

    @property
    def is_positional(self) -> bool:
        """Whether it has no name on the command line."""
        return not self.name.startswith("-")

    @property
    def typed(self) -> str:
        """Its name and what follows it; of a switch that is on, how to turn it off as well."""
        if self.negated is not None and self.default:
            return f"{self.name}, {self.negated}"
        return f"{self.name} {self.values}".strip()


def options_of(cls: type, default: Any = None, prefix: str = "", section: str = "") -> list[Option]:
    """The options of a dataclass and those in it, in order; those that it inherits come last.

    Args:
      cls: the dataclass.
      default: an instance that has the defaults, if they are not the fields' own.
      prefix: before the names.
      section: the heading; those of a base class stand under the first line of its documentation.
    """
    hints, docs = get_type_hints(cls, include_extras=True), _documentation(cls)
    own: list[Option] = []
    nested: list[Option] = []
    inherited: list[Option] = []
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        value = getattr(default, field.name) if default is not None else _default(field)
        plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if dataclasses.is_dataclass(plain) and isinstance(plain, type):
            plain = type(value) if value is not None else plain
            title = f"{field.name}: {_first_line(plain).partition(' (')[0].removesuffix('.')}"
            inside = f"{prefix}{field.name.replace('_', '-')}."
            nested += options_of(plain, value, inside, title)
            continue
        definer = next(each for each in cls.__mro__ if field.name in inspect.get_annotations(each))
        foreign = definer is not cls and not section
        heading = f"{_first_line(definer).removesuffix('.')}:" if foreign else section
        found = _option(field.name, kind, value, prefix, heading, docs.get(field.name, ""))
        (inherited if foreign and not found.is_positional else own).append(found)
    return own + nested + inherited


def _option(name: str, kind: Any, value: Any, prefix: str, section: str, about: str) -> Option:
    extras = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    told = [each for each in extras if hasattr(each, "metavar")]  # tyro.conf.arg
    about = next((each.help for each in told if each.help), about)
    values = next((each.metavar for each in told if each.metavar), _values(kind))
    dashed = prefix + name.replace("_", "-")
    if tyro.conf.Positional in extras:
        several = " ..." if values.endswith(" ...") else ""
        word = next((each.metavar for each in told if each.metavar), name.upper()) + several
        return Option(word if value is dataclasses.MISSING else f"[{word}]", "", about)
    negated = None
    if values == "":
        before, dot, last = dashed.rpartition(".")
        negated = f"--{before}{dot}no-{last}"
    return Option(f"--{dashed}", values, about, section, _shown(value), negated)


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown(value: Any) -> str:
    """A default for people: nothing where there is none, or a switch is off."""
    if value is dataclasses.MISSING:
        return "required"
    if value is None or value is False or value in ("", ()):
        return ""
    if value is True:
        return "default: on"
    return f"default: {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _values(kind: Any) -> str:
    """What a value of this type is called: INT, add|none, PATH ...; a switch has none."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _values(parts[0])
    if origin in (Union, types.UnionType):
        return "|".join(_values(part) for part in parts if part is not type(None))
    if origin is Literal:
        return "|".join(str(part) for part in parts if part is not None)
    if origin is tuple:
        return f"{_values(parts[0])} ..."
    return "" if kind is bool else _WORDS.get(kind, "VALUE")


def _documentation(cls: type) -> dict[str, str]:
    """What is written about each field, in its class or a base class."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        try:
            parsed = docstring_parser.parse_from_object(each)
        except (OSError, TypeError):  # a class that was made on the way has no source
            continue
        found |= {one.arg_name: one.description or "" for one in parsed.params}
    return {name: " ".join(text.split()) for name, text in found.items()}


def _first_line(cls: type) -> str:
    return first_sentence(inspect.getdoc(cls) or "")


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line."""
    said = " ".join(text.partition("\n\n")[0].split())
    first = re.split(r"(?<=[\w)`\"'])(?<!\beq)\. |(?<=…) (?=[A-Z])", said)[0]
    return first if first.endswith("…") else first.removesuffix(".") + "."


def page(
    prog: str,
    documentation: str | None,
    options: Sequence[Option],
    common: Sequence[str] | None = None,
    *,
    short: bool = True,
    ending: Sequence[str] = (),
) -> str:
    """A page of help.

    Args:
      prog: the command as typed.
      documentation: its module's; a short page has the first paragraph and the examples.
      options: all of them.
      common: names, without dashes, of those that a short page shows; None: all.
      short: an option has one sentence.
      ending: the last lines.
    """
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    positional = [one for one in options if one.is_positional]
    others = [one for one in options if not one.is_positional]
    if short and common is not None:
        by_name = {one.name[2:]: one for one in others}
        others = [by_name[name] for name in common if name in by_name]
    usage = " ".join([prog, *(one.name for one in positional), "[options]"])
    lines = [f"usage: {usage}", *_about(documentation, width, short)]
    section = None
    for one in (*positional, *others):
        title = "" if one.is_positional else one.section or "options:"
        if title != section:
            lines += [""] * (not title or not short or not section) + [title] * bool(title)
            section = title
        about = first_sentence(one.about) if short and one.about else one.about
        if one.default:
            about = f"{about.removesuffix('.')} ({one.default})".strip()
        lines += _beside(one.typed, about, width)
    return "\n".join([*lines, "", *_wrapped(ending, width)])


def _about(documentation: str | None, width: int, short: bool) -> Iterator[str]:
    """The paragraphs of a module's documentation; examples stay as they are written."""
    for number, paragraph in enumerate((documentation or "").strip().split("\n\n")):
        if not paragraph:
            continue
        verbatim = any(re.search(r"\S {2,}\S|^ {2,}\S", line) for line in paragraph.splitlines())
        verbatim |= paragraph.startswith(("python -m ", "arcface-jax "))
        if short and number > 0 and not verbatim:
            continue
        yield ""
        if verbatim:
            yield from (f"  {line}".rstrip() for line in paragraph.splitlines())
        else:
            yield from textwrap.wrap(" ".join(paragraph.split()), width)


def _wrapped(lines: Iterable[str], width: int) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, width) or [""]]


def _beside(left: str, right: str, width: int) -> list[str]:
    """Lines of two columns; a long left side stands above."""
    lines = textwrap.wrap(right, max(width - _COLUMN, 20), break_long_words=False)
    if len(left) + 4 > _COLUMN or not lines:
        above, lines = [f"  {left}"], lines
    else:
        above, lines = [f"  {left:<{_COLUMN - 2}}{lines[0]}"], lines[1:]
    return above + [" " * _COLUMN + line for line in lines]


def table(rows: Mapping[str, str]) -> str:
    """Names and what they are, in two columns."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    return "\n".join(line for name, about in rows.items() for line in _beside(name, about, width))


def unknown(what: str, name: str, names: Iterable[str]) -> InputError:
    """The error that nothing has this name, with the nearest one, or with all of them."""
    near = nearest(name, names)
    remedy = f"did you mean {near}?" if near else f"choose one of {', '.join(names)}"
    return InputError(f"no {what} is called {name!r}; {remedy}")


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was likely meant: the nearest one, or one with this name or these initials
    after its dot, --run.steps for --steps, --optimiser.learning-rate for --lr; empty if none is.
    """
    names, last = list(names), name.lstrip("-")
    tails = {one.lstrip("-").rpartition(".")[2]: one for one in names}
    initials = {"".join(word[:1] for word in tail.split("-")): tails[tail] for tail in tails}
    found = difflib.get_close_matches(name, names, 1)
    if last in tails:
        found = [tails[last]]
    elif not found:
        found = [tails[one] for one in difflib.get_close_matches(last, tails, 1)]
    return found[0] if found else initials.get(last, "")
