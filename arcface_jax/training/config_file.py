"""Configurations as JSON files, and what two of them differ in."""

import dataclasses
import json
import pathlib
from typing import Any, Literal, get_args, get_origin, get_type_hints

from arcface_jax.errors import InputError, concerning, printable, reason
from arcface_jax.import_path import check_not_inside
from arcface_jax.losses import Loss, loss_class, loss_name
from arcface_jax.training.config import DEFAULT_SCALE, PLACE_SETTINGS, Config, RunConfig


def as_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration by section and field, the loss's name among its fields; without
    run.on_event, so that whoever repeats a run of others runs no command of theirs.
    """
    sections = dataclasses.asdict(config)
    del sections["run"]["on_event"]
    return {**sections, "loss": {"name": loss_name(config.loss), **sections["loss"]}}


def config_to_json(config: Config) -> str:
    """The configuration as indented JSON, every field present that `as_dict` has."""
    return json.dumps(as_dict(config), indent=2) + "\n"


def read_config(path: pathlib.Path) -> Config:
    """Reads what `config_to_json` wrote.

    Raises:
      InputError: the file is missing, is not JSON, or has a section or field this version does not
        know.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(
            f"configuration {path}: cannot be read ({error.strerror}); check the path"
        ) from error
    except ValueError as error:
        raise InputError(
            f"configuration {path}: is not JSON ({reason(error)}); use a config.json of a run"
        ) from error
    sections = {field.name: field.default_factory for field in dataclasses.fields(Config)}
    if not isinstance(content, dict) or not content.keys() <= sections.keys():
        raise InputError(f"configuration {path}: sections must be among {', '.join(sections)}")
    read: dict[str, Any] = {}
    for name, values in content.items():
        if name in ("loss", "model") and isinstance(values, dict):
            check_not_inside(str(values.get("name")), path.parent, f"{path}: {name}.name")
        factory: Any = sections[name]
        if name == "run" and isinstance(values, dict) and "on_event" in values:
            raise InputError(
                f"configuration {path}: run.on_event is never read from a file; take the line out "
                "and give --run.on-event"
            )
        if name == "loss" and isinstance(values, dict):
            with concerning(f"configuration {path}"):
                factory, values = _loss(values)
        read[name] = _section(path, name, factory, values)
    return Config(**read)


def settings_in(path: pathlib.Path) -> list[str]:
    """The settings that a file which `read_config` reads has, as "section.name"."""
    content = json.loads(path.read_text())
    return [f"{section}.{name}" for section, values in content.items() for name in values]


def without_place(config: Config) -> Config:
    """What a run is, without where and how it is made (`PLACE_SETTINGS`)."""
    defaults = RunConfig()
    places = {name: getattr(defaults, name) for name in PLACE_SETTINGS}
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **places))


def differences(given: Config, saved: Config) -> list[str]:
    """One line for each setting of the recipe that differs: "section.name is X, was Y"."""
    now, then = as_dict(without_place(given)), as_dict(without_place(saved))
    return [
        f"{section}.{name} is {value!r}, was {then[section][name]!r}"
        for section, values in now.items()
        for name, value in values.items()
        if value != then[section].get(name)
    ]


_FORMER_LOSS = {
    "margin": None,
    "scale": None,
    "past_pi": "none",
    "gradient": "exact",
    "margin_warmup": 0.0,
    "sub_centers": 1,
    "label_smoothing": 0.0,
    "filter_threshold": None,
    "precision": "highest",
}
"""What loss sections said, before a loss had fields of its own and precision was the head's, of
what was not set.
"""


def _loss(values: dict[str, Any]) -> tuple[type[Loss], dict[str, Any]]:
    """(the class that a loss section names, its fields); of a section as versions before 0.1.0
    wrote it, too.
    """
    values = dict(values)
    cls = loss_class(str(values.pop("name", loss_name(Config().loss))))
    known = {field.name for field in dataclasses.fields(cls)}
    if "scale" in values and values["scale"] is None and "scale" in known:
        values["scale"] = DEFAULT_SCALE
    if not values.keys() <= known:  # as then: MagFace's own rule past π stood there as "none"
        unset = _FORMER_LOSS.items()
        values = {name: value for name, value in values.items() if (name, value) not in unset}
    return cls, {name: value for name, value in values.items() if (name, value) != ("margin", None)}


def _section(path: pathlib.Path, name: str, factory: Any, values: Any) -> Any:
    known = {field.name for field in dataclasses.fields(factory)}
    if not isinstance(values, dict) or not values.keys() <= known:
        there = set(values) - known if isinstance(values, dict) else [json.dumps(values)[:80]]
        raise InputError(
            f"configuration {path}: section {name} has unknown content "
            f"{', '.join(sorted(there))}; known: {', '.join(sorted(known))}"
        )
    hints = get_type_hints(factory)
    values = {field: _from_json(value, hints[field]) for field, value in values.items()}
    for field, value in values.items():
        if not _fits(value, hints[field]):
            shown = printable(json.dumps(value, ensure_ascii=False)[:80])
            raise InputError(
                f"configuration {path}: {name}.{field} is {shown}; give {_in_words(hints[field])}"
            )
    with concerning(f"configuration {path}, section {name}"):
        return factory(**values)


_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _in_words(hint: Any) -> str:
    """What a field takes, as JSON has it."""
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(inner)
    if get_origin(hint) is tuple:
        return f"a list, each {_in_words(inner[0])}"
    if inner:
        return " or ".join(map(_in_words, inner))
    return _KINDS.get(hint, "null")


def _from_json(value: Any, hint: Any) -> Any:
    """JSON has lists where the dataclasses have tuples."""
    return tuple(value) if get_origin(hint) is tuple and isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(hint)[0]) for one in value)
    if get_args(hint):  # X | None
        return any(_fits(value, one) for one in get_args(hint))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
