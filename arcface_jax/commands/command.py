"""What all commands share: options, one-line errors, exit codes, and the terminal."""

import dataclasses
import errno
import functools
import io
import itertools
import json
import logging
import math
import pathlib
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Annotated, Any, NoReturn, TypeVar, get_args

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from arcface_jax.buckets import BucketPath, as_path
from arcface_jax.command_name import command, spell_commands
from arcface_jax.commands.compiled import keep_compiled
from arcface_jax.commands.help_page import (
    HELP,
    HELP_ALL,
    Option,
    Page,
    asked_for_help,
    first_sentence,
    nearest,
    print_page,
    unknown,
)
from arcface_jax.commands.option_list import options_of
from arcface_jax.errors import InputError
from arcface_jax.files import write_whole
from arcface_jax.progress import Lines, Move

INPUT_ERROR = 2
INTERRUPTED = 130
"""Ctrl-C."""
TERMINATED = 143
"""A termination signal: a checkpoint is saved, and the same command goes on."""

_NO_PLACE = "ENOSPC EDQUOT EROFS EACCES EPERM ENOTDIR EISDIR EEXIST ENOTEMPTY"
_REMEDIES = {"ENOENT": "; check the path"}
_REMEDIES |= dict.fromkeys(_NO_PLACE.split(), "; choose another place")
"""What to do about an error of the operating system, where that is known."""
_WIDTH_OF_A_LOG = 10_000

Chosen = TypeVar("Chosen")


_PATHS = tyro.constructors.ConstructorRegistry()


@_PATHS.primitive_rule
def _path_rule(
    kind: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """A path of an option, which may be in a bucket."""
    if kind.type is not pathlib.Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda given: as_path(given[0]),
        is_instance=lambda value: isinstance(value, pathlib.Path),
        str_from_instance=lambda value: [str(value)],
    )


def read_options(
    options: Callable[..., Chosen],
    name: str,
    documentation: str | None,
    arguments: Sequence[str] | None = None,
    *,
    common: tuple[str, ...] | None = None,
    also: Sequence[Option] = (),
    default: Any = None,
) -> Chosen:
    """The command line as `options`, a dataclass or function; --help prints a page and exits.

    Args:
      options: what the arguments become, by tyro.
      name: the command's.
      documentation: its module's.
      arguments: of the command line, or else the program's.
      common: names of the options that --help shows, --help-all all of them; None: all.
      also: options that the command takes out of its arguments before.
      default: an instance of `options` that has the defaults, if they are not its own.

    Raises:
      InputError: there is no such option, a value is none that an option takes, an argument is
        missing, or `options` itself raises it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    more = {} if default is None else {"default": default}
    read = functools.partial(tyro.cli, options, prog=command(name), registry=_PATHS, **more)
    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        return read(args=given, description=spell_commands(documentation or ""))
    known = (*also, *options_of(options, default))
    if (asked := asked_for_help(given)) is not None:
        help_with(Page(name, documentation or "", known, common), short=asked != HELP_ALL)
    _check_known(given, known, name)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            chosen = read(args=given, config=(tyro.conf.PositionalMetavarFromFieldName,))
    except SystemExit as stop:
        error: BaseException | None = stop
        while error is not None and not isinstance(error, InputError):
            error = error.__cause__ or error.__context__
        raise error or InputError(_in_one_line(said.getvalue(), name)) from None
    check_numbers(chosen)
    check_places(chosen)
    return chosen


def read_subcommand(
    choices: Mapping[str, Callable[..., Chosen]], name: str, documentation: str
) -> Chosen:
    """The command line of a command that is followed by what to do: one of `choices`."""
    about = {each: first_sentence(one.__doc__ or "") for each, one in choices.items()}
    verb = verb_of(Page(name, documentation, verbs=about), f"action of {name}")
    examples = [
        line
        for line in documentation.splitlines()
        if line.startswith(f"python -m experiments.{name} {verb} ")
    ]
    own = "\n\n".join([choices[verb].__doc__ or "", "\n".join(examples)])
    return read_options(choices[verb], f"{name} {verb}", own, sys.argv[2:])


def verb_of(page: Page, kind: str) -> str:
    """What follows the name of a command; without it, or for help, prints the page and exits."""
    verb = sys.argv[1] if len(sys.argv) > 1 else HELP[0]
    if verb in (*HELP, HELP_ALL):
        help_with(page, short=verb != HELP_ALL)
    if verb not in page.verbs:
        raise unknown(kind, verb, page.verbs)
    return verb


def help_with(page: Page, *, short: bool) -> NoReturn:
    """Prints a page and exits."""
    print_page(page.text(short=short))
    raise SystemExit(0)


def _check_known(arguments: Sequence[str], known: Sequence[Option], name: str) -> None:
    """Refuses an option that there is none of."""
    names = [one.name for one in known if not one.is_positional]
    negated = [one.negated for one in known if one.negated]
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if re.match("-[-a-zA-Z]", option) and option not in (*names, *negated):
            near = nearest(option, [*names, *negated])
            remedy = f"did you mean {near}?" if near else f"{command(name)} {HELP_ALL} lists all"
            raise InputError(f"there is no option {argument.partition('=')[0]}; {remedy}")


_WORDS_OF_PYTHON = {
    r"invalid literal for int\(\) with base 10: ('.*?')": r"\1 is no whole number",
    r"could not convert string to float: ('.*?')": r"\1 is no number",
    r"Error parsing (\S+):": r"\1:",
    r"Unrecognized options: ": "too many arguments, or in the wrong place: ",
    r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*?),?\)\.": (
        r"\2: \1; give one of \3"
    ),
    r"Missing from .*?: (\S+) .*": r"\1 is missing",
    r"Missing value for argument '(.*?)'\..*": r"\1 needs a value",
}


def _in_one_line(box: str, name: str) -> str:
    """What tyro says in a box, up to its first rule."""
    inside = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]
    said = " ".join(itertools.takewhile(lambda line: not line.startswith("──"), inside))
    for theirs, ours in _WORDS_OF_PYTHON.items():
        said = re.sub(theirs, ours, said)
    return f"{said.strip() or 'the command line cannot be read'}; see {command(name)} --help"


@dataclasses.dataclass(frozen=True)
class Range:
    """What numbers an option takes, low … high, as a part of its type: Annotated[int, Range(1)]."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False


@dataclasses.dataclass(frozen=True)
class Checked:
    """What refuses a value of an option before any work, as a part of its type:
    Annotated[pathlib.Path, Checked(check_there)]; of a tuple, each of its values.
    """

    check: Callable[[Any], None]


def check_there(path: pathlib.Path | str) -> None:
    """Refuses a file or folder that is not there."""
    if not as_path(path).exists():
        raise InputError(f"{path}: no such file or folder; check the path")


Existing = Annotated[pathlib.Path, Checked(check_there)]
"""A file or folder that a command reads."""


_MOST = 2**63
_RANGE_OF_SEED = Range(0, 2**32 - 1)
Count = Annotated[int, Range(1)]
Seed = Annotated[int, _RANGE_OF_SEED]
Share = Annotated[float, Range(0.0, 1.0)]
Cosine = Annotated[float, Range(-1.0, 1.0)]
Positive = Annotated[float, Range(0.0, open_low=True)]
"""The usual kinds of numbers. NumPy takes no seed below 0."""


def check_numbers(options: Any, prefix: str = "--") -> None:
    """Refuses an option that is NaN or infinite, outside the `Range` of its type, a whole number of
    more than 63 bits, or an empty list of numbers.

    Args:
      options: a dataclass; dataclasses in it, and tuples of numbers, are looked through.
      prefix: what stands before the names.

    Raises:
      InputError: names the option and its value.
    """
    from arcface_jax.arguments import check_between  # with JAX, which takes a second

    if not dataclasses.is_dataclass(options):
        return
    for field in dataclasses.fields(options):
        value, name = getattr(options, field.name), prefix + field.name.replace("_", "-")
        check_numbers(value, f"{name}.")
        if tyro.conf.Positional in get_args(field.type):
            name = field.name.upper()
        numbers = value if isinstance(value, tuple | list) else (value,)
        own = range_of(field.type)
        if own and not numbers and field.default:
            raise InputError(f"{name} is empty; give 1 or more")
        limits = own or (_RANGE_OF_SEED if field.name == "seed" else Range())
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if isinstance(number, int) and abs(number) >= _MOST:
                raise InputError(f"{name} is a number of {len(str(number))} digits; pass less")
            if not isinstance(number, float) or number != field.default:
                check_between(name, number, limits.low, limits.high, open_low=limits.open_low)


def check_places(options: Any) -> None:
    """Calls the `Checked` in the options' types, so that nothing is computed before what is missing
    is said.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for each in value if isinstance(value, tuple) else () if value is None else (value,):
            for checked in _in_type(field.type, Checked):
                checked.check(each)


def _in_type(kind: Any, wanted: type) -> Iterator[Any]:
    if isinstance(kind, wanted):
        yield kind
    for part in get_args(kind):
        yield from _in_type(part, wanted)


def range_of(kind: Any) -> Range | None:
    """The range in an option's type, as in tuple[Count, ...] and Count | None; None without."""
    return next(_in_type(kind, Range), None)


def split_arguments() -> tuple[list[str], list[str]]:
    """The program's arguments before and after `--`."""
    arguments = sys.argv[1:]
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def take_option(arguments: list[str], option: str, wanted: str) -> tuple[list[str], list[str]]:
    """(values, other arguments): takes every `option VALUE` or `option=VALUE` out."""
    values, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == option:
            value = next(remaining, None)
            if value is None:
                raise InputError(f"{option} needs {wanted}")
            values.append(value)
        elif argument.startswith(f"{option}="):
            values.append(argument.removeprefix(f"{option}="))
        else:
            rest.append(argument)
    return values, rest


def new_console(**options: Any) -> Console:
    """A console that prints ":x:" in a path or a name as it is. A log has no columns: where the
    output is no terminal, lines and tables are as wide as what stands in them.
    """
    console = Console(emoji=False, **options)
    if not (console.is_terminal or console.is_jupyter):
        console.width = _WIDTH_OF_A_LOG
    return console


def say(console: Console, text: str, style: str | None = None) -> None:
    """Prints text as it is: no markup, no highlighting, no line breaks of its own."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def say_written(console: Console, *files: pathlib.Path) -> None:
    """Prints the names of files that were written."""
    say(console, f"Written: {', '.join(map(str, files))}")


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes plain, finite values as a file of JSON, as a whole."""
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def table_of(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, **options: Any
) -> Table:
    """A table of plain text, in which "[b]" is no markup; the first `left` columns are aligned to
    the left.
    """
    table = Table(**options)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < left else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


@contextmanager
def progress_bar(console: Console, title: str, total: int | None = None) -> Iterator[Move]:
    """A bar on the terminal, elsewhere a line every ten seconds; the value moves it on. Without a
    total it tells the time.
    """
    if not console.is_terminal:
        with Lines(functools.partial(say, console), title, total) as lines:
            yield lines
        return
    counts = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}", markup=False), *counts)
    # What is printed meanwhile goes above the bar; but not to its stream if that is another.
    options: dict[str, Any] = {"transient": True, "redirect_stdout": not console.stderr}
    with Progress(*columns, console=console, **options) as progress:
        task = progress.add_task(title, total=total)

        def move(count: int, at: str | None = None) -> None:
            named = f"{title}: {at}" if at else title
            progress.update(task, advance=count, description=None if at is None else named)

        yield move


def check_new_file(path: pathlib.Path, beside: str = "") -> None:
    """Refuses, before the work begins, a file that could not be written after it."""
    if path.exists():
        raise InputError(f"{path}: exists already{beside}; choose another file")
    if isinstance(path, BucketPath):  # folders are made with what lies in them
        _check_writable(path.parent)
        return
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it first")
    _check_writable(path.absolute().parent)


def make_folder(path: pathlib.Path) -> None:
    """Makes the folder that results will go to, before the work begins."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made a folder ({error.strerror}); choose another with --output"
        ) from error
    _check_writable(path)


def _check_writable(folder: pathlib.Path) -> None:
    """Tries: permissions do not tell of a disk that can only be read."""
    try:
        if isinstance(folder, BucketPath):
            (folder / ".arcface-jax").write_bytes(b"")
            (folder / ".arcface-jax").unlink(missing_ok=True)
        else:
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error


@dataclasses.dataclass(frozen=True)
class _Unraisable:
    """Reports errors that no caller sees, as before, but for "Event loop is closed": where a
    checkpoint is damaged, Orbax closes the loop that its other reading threads still report to.
    """

    former: Callable[[Any], None]

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.former(unraisable)


def run_command(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits: 0 or what it returns, 2 with a line for bad input, 130 for Ctrl-C.
    Compiled programs are kept, see `keep_compiled`.

    What libraries warn their programmers of is not shown, unless Python is asked to by -W. What
    this library remarks is shown as it is, wherever another has set up logging for itself.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore", append=True)
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)
    keep_compiled()
    try:
        with _plain_remarks():
            status = main() or 0
    except (Exception, KeyboardInterrupt) as error:
        known = tell(error)
        if known is None:
            raise
        status = known
    sys.exit(status)


def tell(error: BaseException) -> int | None:
    """Prints the line of an error that a person can mend, and returns the exit status; None, and
    nothing printed, for any other.
    """
    if isinstance(error, InputError):
        say(new_console(stderr=True), f"error: {error}", "bold red")
        return INPUT_ERROR
    if isinstance(error, OSError):
        # What was opened last says most: a folder that is a file, a full disk, a missing
        # permission.
        remedy = _REMEDIES.get(errno.errorcode.get(error.errno or 0, ""), "")
        name, said = error.filename or "a file", error.strerror or error
        print(f"error: {name}: {said}{remedy}", file=sys.stderr)
        return INPUT_ERROR
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, Exception) and _asks_too_much(error):
        print(
            "error: this takes more memory than there is; choose smaller numbers, or a larger "
            "machine",
            file=sys.stderr,
        )
        return INPUT_ERROR
    return None


@contextmanager
def _plain_remarks() -> Iterator[None]:
    """Sends what the logger arcface_jax says to standard error, without a name and a level."""
    logger, plain = logging.getLogger("arcface_jax"), logging.lastResort
    if plain is None or logger.handlers or not logger.propagate:  # somebody has set it up
        yield
        return
    logger.addHandler(plain)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(plain)
        logger.propagate = True


def _asks_too_much(error: Exception) -> bool:
    """Whether an error says that memory is short, by its kind or, of NumPy and XLA, its words."""
    words = ("array is too big", "Maximum allowed dimension", "RESOURCE_EXHAUSTED")
    return isinstance(error, MemoryError | OverflowError) or any(one in str(error) for one in words)
