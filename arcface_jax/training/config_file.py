"""Configurations as JSON files, and what two of them differ in."""

import dataclasses
import json
import pathlib
from typing import Any, Literal, get_args, get_origin, get_type_hints

from arcface_jax.errors import InputError
from arcface_jax.training.config import PLACE_SETTINGS, Config, RunConfig


def to_json(config: Config) -> str:
    """The configuration as indented JSON, every field present."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def read_config(path: pathlib.Path) -> Config:
    """Reads what `to_json` wrote.

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
            f"configuration {path}: is not JSON ({error}); use a config.json of a run"
        ) from error
    sections = {field.name: field.default_factory for field in dataclasses.fields(Config)}
    if not isinstance(content, dict) or not content.keys() <= sections.keys():
        raise InputError(f"configuration {path}: sections must be among {', '.join(sections)}")
    return Config(
        **{name: _section(path, name, sections[name], value) for name, value in content.items()}
    )


def recipe(config: Config) -> Config:
    """What a run is, without where and how it is made (`PLACE_SETTINGS`)."""
    defaults = RunConfig()
    places = {name: getattr(defaults, name) for name in PLACE_SETTINGS}
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **places))


def differences(given: Config, saved: Config) -> list[str]:
    """One line for each setting of the recipe that differs: "section.name is X, was Y"."""
    now, then = dataclasses.asdict(recipe(given)), dataclasses.asdict(recipe(saved))
    return [
        f"{section}.{name} is {value!r}, was {then[section][name]!r}"
        for section, values in now.items()
        for name, value in values.items()
        if value != then[section][name]
    ]


def _section(path: pathlib.Path, name: str, factory: Any, values: Any) -> Any:
    known = {field.name for field in dataclasses.fields(factory)}
    if not isinstance(values, dict) or not values.keys() <= known:
        unknown = sorted(set(values) - known) if isinstance(values, dict) else values
        raise InputError(
            f"configuration {path}: section {name} has unknown content {unknown}; known: "
            f"{sorted(known)}"
        )
    hints = get_type_hints(factory)
    values = {field: _from_json(value, hints[field]) for field, value in values.items()}
    for field, value in values.items():
        if not _fits(value, hints[field]):
            kind = getattr(hints[field], "__name__", str(hints[field]).replace("typing.", ""))
            raise InputError(f"configuration {path}: {name}.{field} is {value!r}; give {kind}")
    return factory(**values)


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
