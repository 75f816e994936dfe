"""What `--help` and `--help-all` print, and the nearest name to one that is unknown.

tyro reads the options, and helps with all of them in boxes of several lines each; a page here fits
a screen. Pages are kept in a file of the package as well, for to make them takes an import of JAX
and all else that a command needs, which takes seconds.
"""

import dataclasses
import difflib
import functools
import itertools
import json
import os
import pathlib
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from arcface_jax.command_name import command, spell_commands
from arcface_jax.commands.compiled import NO_CACHE, cache_folder
from arcface_jax.errors import InputError

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
KEPT = pathlib.Path(__file__).with_name("pages.json")
"""The pages of all commands; tests/experiments/test_help.py writes it."""

_WIDEST = 100
_COLUMN = 26
"""Where the explanations begin, but for options too long to stand beside them."""


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


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line."""
    said = " ".join(text.partition("\n\n")[0].split())
    first = re.split(r"(?<=[\w)`\"'])(?<!\beq)\. |(?<=…) (?=[A-Z])", said)[0]
    return first if first.endswith("…") else first.removesuffix(".") + "."


@dataclasses.dataclass(frozen=True)
class Page:
    """What is known of a command.

    Attributes:
      name: the command's, and what follows it: identify enrol.
      documentation: its module's; a short page has the first paragraph and the examples.
      options: all of them.
      common: names, without dashes, of those that a short page shows; None: all.
      verbs: what can follow the name, and the first sentence about each where the examples do not
        tell.
    """

    name: str
    documentation: str
    options: tuple[Option, ...] = ()
    common: tuple[str, ...] | None = None
    verbs: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def text(self, *, short: bool) -> str:
        """As it is printed; a short one has a sentence for each of the common options."""
        width = _width()
        positional = [one for one in self.options if one.is_positional]
        others = [one for one in self.options if not one.is_positional]
        if short and self.common is not None:
            by_name = {one.name[2:]: one for one in others}
            others = [by_name[name] for name in self.common if name in by_name]
        words = ["ACTION"] if self.verbs else []
        words += [one.name for one in positional] + ["[options]"]
        documentation = spell_commands(self.documentation)
        lines = [f"usage: {' '.join([command(self.name), *words])}"]
        lines += _about(documentation, width, short)
        lines += ["", table(self.verbs)] if any(self.verbs.values()) else []
        section = None
        for one in (*positional, *others):
            title = "" if one.is_positional else one.section or "options:"
            if title != section:
                lines += [""] * (not title or not short or not section) + [title] * bool(title)
                section = title
            about = first_sentence(one.about) if short and one.about else one.about
            if one.default:
                about = f"{about.removesuffix('.')} ({one.default})".strip()
            lines += _beside(one.typed, spell_commands(about), width)
        ending = (textwrap.wrap(line, width) for line in self._ending(short=short))
        return "\n".join([*lines, "", *itertools.chain.from_iterable(ending)])

    def _ending(self, *, short: bool) -> Iterator[str]:
        if self.verbs:
            yield f"{command(self.name)} {next(iter(self.verbs))} --help explains its options."
            return
        if short:
            yield f"{HELP_ALL} shows every option in full."
        if (folder := cache_folder()) is not None:
            shown = re.sub(f"^{re.escape(os.path.expanduser('~'))}(?=/)", "~", str(folder))
            where = "" if short else f" in {shown}"  # a short page is as long on every machine
            yield f"Compiled programs are kept{where}; {NO_CACHE} compiles anew."


def _width() -> int:
    return min(shutil.get_terminal_size().columns, _WIDEST)


def asked_for_help(arguments: Sequence[str]) -> str | None:
    """The last of --help and --help-all among the arguments; None without."""
    asked = [one for one in arguments if one in (*HELP, HELP_ALL)]
    return asked[-1] if asked else None


def kept_text(arguments: Sequence[str]) -> str | None:
    """The page that a command's name and arguments ask for, without importing the command; None
    where they ask for none, or for one that depends on more of them.
    """
    words = [one for one in arguments if not one.startswith("-")]
    rest = [one for one in arguments if one.startswith("-")]
    asked = asked_for_help(rest)
    if asked is None or len(rest) > 1:
        return None
    found = kept_pages().get(" ".join(words))
    return None if found is None else found.text(short=asked != HELP_ALL)


def print_page(text: str) -> None:
    """Prints it, to a reader who may have seen enough: `head` closes the pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush


def answer_module(package: str) -> None:
    """Prints the page that `python -m PACKAGE.NAME --help` asks for and exits, if it is called so:
    for the package to call, before NAME imports what it computes with.
    """
    if sys.argv[0] != "-m":  # Python is not about to run a module
        return
    module, *arguments = sys.orig_argv[-len(sys.argv) :]
    if not module.startswith(f"{package}."):
        return
    if (text := kept_text([module.rpartition(".")[2], *arguments])) is not None:
        print_page(text)
        raise SystemExit(0)


@functools.cache
def kept_pages() -> dict[str, Page]:
    """The pages by the names of the commands; none where there is no file of them."""
    if not KEPT.exists():
        return {}
    return {one["name"]: _page(one) for one in json.loads(KEPT.read_text(encoding="utf-8"))}


def _page(content: dict[str, Any]) -> Page:
    options = tuple(Option(**one) for one in content["options"])
    common = None if content["common"] is None else tuple(content["common"])
    return Page(**content | {"options": options, "common": common})


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


def _beside(left: str, right: str, width: int) -> list[str]:
    """Lines of two columns; a long left side stands above."""
    lines = textwrap.wrap(
        right, max(width - _COLUMN, 20), break_long_words=False, break_on_hyphens=False
    )
    if len(left) + 4 > _COLUMN or not lines:
        above, lines = [f"  {left}"], lines
    else:
        above, lines = [f"  {left:<{_COLUMN - 2}}{lines[0]}"], lines[1:]
    return above + [" " * _COLUMN + line for line in lines]


def table(rows: Mapping[str, str]) -> str:
    """Names and what they are, in two columns."""
    width = _width()
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
