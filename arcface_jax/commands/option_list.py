"""The options of a dataclass, as a page of help shows them."""

import dataclasses
import inspect
import pathlib
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from arcface_jax.commands.help_page import Option, first_sentence

_WORDS = {int: "INT", float: "FLOAT", str: "TEXT", pathlib.Path: "PATH"}


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
