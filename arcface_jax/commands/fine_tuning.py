"""Fine-tuning: what a run takes from the trained model that it starts from."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.commands.models import is_export, open_trained
from arcface_jax.errors import InputError, concerning
from arcface_jax.interop.model import TrainedModel, check_finite
from arcface_jax.interop.torch_projects import PROJECTS, UnknownProjectError
from arcface_jax.models import registry
from arcface_jax.pixels import CONVENTIONS
from arcface_jax.runs.processes import join_processes
from arcface_jax.runs.saved_runs import SavedRun, find_run
from arcface_jax.training.config import Config, DataConfig
from arcface_jax.training.program import create_backbone
from arcface_jax.training.state import named_leaves

NETWORK = (
    "model.name",
    "model.width",
    "model.embedding_size",
    "model.epsilon",
    "model.pixels",
    "data.image_size",
)
"""The settings that a trained model decides; data.image_size stands for height and width."""


def settled(
    parse: Callable[[Config], Config], base: Config, set_in_base: Collection[str], source: str
) -> Config:
    """The configuration of a command line; its network is that of the model it starts from.

    Args:
      parse: reads the command line's options over a configuration.
      base: the configuration that they change.
      set_in_base: the settings that somebody set in `base`, as "section.name"; with all of
        `NETWORK` it needs nothing from the model.
      source: what set them, for a message: a preset or a file.

    Raises:
      InputError: the model cannot be read, or settings differ from it; the message has all of them,
        each with both values.
    """
    first = parse(base)
    if first.model.init is None or set(NETWORK) <= set(set_in_base):
        return first

    def pixels() -> str | None:
        """What the command line or the base says, whatever the default."""
        read = {parse(_with(base, {"model.pixels": one})).model.pixels for one in _TWO_PIXELS}
        if len(read) == 1:
            return read.pop()
        return base.model.pixels if "model.pixels" in set_in_base else None

    if first.run.distributed:  # to read some files is to compute, which must not come before
        join_processes()
    network = network_of(first.model.init, pixels)
    second = parse(_with(base, network))
    differing = []
    for name, wanted in network.items():
        typed = _value(second, name)
        if typed != wanted:
            option = "--" + name.replace("_", "-")
            differing.append(f"{option} {_shown(typed)} ({_shown(wanted)})")
            continue
        before = _value(first, name)
        if name == "data.image_size" and "data.image_width" not in set_in_base:
            before = (before[0], wanted[1])
        if before != wanted and name in set_in_base:
            differing.append(f"{name} {_shown(before)} by {source} ({_shown(wanted)})")
    _refuse(first.model.init, differing)
    return second


def set_by_preset(config: Config) -> set[str]:
    """The settings in `NETWORK` in which a preset's configuration is not the default."""
    return {name for name in NETWORK if _value(config, name) != _value(Config(), name)}


def network_in_words(config: Config) -> str:
    """One line: those settings of `NETWORK` that the network has."""
    model = config.model
    epsilon = "" if model.epsilon is None else f", epsilon {model.epsilon:g}"
    return (
        f"{registry.in_words(model.name, model.width, model.embedding_size)}, "
        f"{_shown(_value(config, 'data.image_size'))} pixels as {model.pixels}{epsilon}"
    )


def open_start(config: Config) -> TrainedModel | None:
    """The model that config.model.init names, to hand to `runs.setup.prepare`; None without.

    Raises:
      InputError: it cannot be read or trained on, or its network is not the configuration's; the
        message has all settings that differ.
    """
    path = config.model.init
    if path is None:
        return None
    model = _opened(path, lambda: config.model.pixels)
    is_run = find_run(as_path(path)) is not None
    network = network_of(path) if is_run else _described(path, model)
    _refuse(
        path,
        [
            f"{name} {_shown(_value(config, name))} ({_shown(wanted)})"
            for name, wanted in network.items()
            if _value(config, name) != wanted
        ],
    )
    if config.optimiser.frozen < 1.0 and _is_folded(model):
        raise InputError(
            f"model.init {path}: its batch normalisations were folded into the layers before them, "
            "so that only a new head can be trained on it (--optimiser.frozen 1); give the "
            "checkpoint that it was exported from"
        )
    return model


def open_teacher(config: Config) -> TrainedModel | None:
    """The model that config.model.teacher names, to hand to `runs.setup.prepare`; None without."""
    path = config.model.teacher
    return None if path is None else _opened(path, lambda: config.model.pixels, "model.teacher")


def network_of(path: str, pixels: Callable[[], str | None] = lambda: None) -> dict[str, Any]:
    """The values of `NETWORK` of a trained model.

    Args:
      path: of a run, or a file.
      pixels: asked where the file does not tell what it was fed: a name of `CONVENTIONS`, or None.

    Raises:
      InputError: it cannot be read, or no configuration has its network.
    """
    run = find_run(as_path(path))
    if run is None:
        return _described(path, _opened(path, pixels))
    with _naming(path):
        config = run.config
    return {name: _value(config, name) for name in NETWORK}


_TWO_PIXELS = tuple(CONVENTIONS)[:2]


def _described(path: str, model: TrainedModel) -> dict[str, Any]:
    backbone: Any = model.backbone
    name = registry.name_of(backbone)
    pixels = next((name for name, one in CONVENTIONS.items() if one == model.pixels), None)
    if name is None:
        raise InputError(
            f"model.init {path}: no --model.name is its network, a variant of "
            f"{type(backbone).__name__}, so it cannot be trained on here; start from another model"
        )
    if pixels is None:
        raise InputError(
            f"model.init {path}: was trained on pixels that no --model.pixels is ({model.pixels}); "
            "start from another model"
        )
    sizes = {"embedding_size": backbone.embedding_size, "width": backbone.width}
    own: Any = registry.create(name, **sizes)
    values = (
        name,
        backbone.width,
        backbone.embedding_size,
        None if backbone.epsilon == own.epsilon else backbone.epsilon,
        pixels,
        tuple(model.image_size),
    )
    return dict(zip(NETWORK, values, strict=True))


def _opened(
    path: str, pixels: Callable[[], str | None], option: str = "model.init"
) -> TrainedModel:
    place = as_path(path)
    if not place.exists():
        raise InputError(
            f"{option} {path}: no such file or folder; give a run, a PyTorch checkpoint or "
            "another model file"
        )
    if is_export(place):
        raise InputError(
            f"{option} {path}: is an export, whose weights cannot be taken out; give the run or "
            "checkpoint that it was made of"
        )
    with _naming(path, option):
        if (run := find_run(place)) is not None:
            return _of_run(run)
        try:
            return open_trained(place)
        except UnknownProjectError as error:
            named = pixels()
            fed = [
                one
                for one, about in PROJECTS.items()
                if about.pixels == CONVENTIONS.get(named or "")
            ]
            if not fed:
                raise InputError(
                    f"{path}: several projects name their weights like this, and their pixels "
                    "differ; set --model.pixels, as adaface (BGR) or arcface_torch (RGB)"
                ) from error
            return open_trained(place, fed[0])


def _of_run(run: SavedRun) -> TrainedModel:
    """The backbone of a run without its head, so that neither its loss nor its devices matter."""
    config = run.config
    with run.opened() as (checkpoints, step):
        state = checkpoints.read_tree(step)
    variables = state["average"] or {
        "params": state["params"]["backbone"],
        "batch_stats": state["batch_stats"],
    }
    source = f"{run.folder}, step {step}"
    with concerning(source):
        check_finite(named_leaves(variables))
    return TrainedModel(
        create_backbone(config),
        variables,
        CONVENTIONS[config.model.pixels],
        config.data.size,
        source,
    )


@contextlib.contextmanager
def _naming(path: str, option: str = "model.init") -> Iterator[None]:
    """Begins the message of an error by the option and the file."""
    try:
        yield
    except InputError as error:
        said = str(error)
        said = said if said.startswith(path) else f"{path}: {said}"
        raise InputError(f"{option} {said}") from error


def _refuse(path: str, differing: list[str]) -> None:
    if differing:
        raise InputError(
            f"model.init {path}: what is set differs from the trained model, whose values are in "
            f"brackets: {'; '.join(differing)}. Leave these out, or start from another model"
        )


def _is_folded(model: TrainedModel) -> bool:
    """Whether a normalisation is none any more: mean 0 and variance 1, but for epsilon."""
    leaves = named_leaves(dict(model.variables.get("batch_stats", {})))
    return any(
        not np.any(leaf) and np.ptp(leaves[name.removesuffix("mean") + "var"]) == 0
        for name, leaf in leaves.items()
        if name.endswith("mean") and name.removesuffix("mean") + "var" in leaves
    )


def _value(config: Config, name: str) -> Any:
    if name == "data.image_size":
        return config.data.size
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field)


def _with(config: Config, network: Mapping[str, Any]) -> Config:
    """The configuration with some of `NETWORK` replaced."""
    model = {
        name.removeprefix("model."): value
        for name, value in network.items()
        if name.startswith("model.")
    }
    data: DataConfig = config.data
    if "data.image_size" in network:
        height, width = network["data.image_size"]
        data = dataclasses.replace(
            data, image_size=height, image_width=None if width == height else width
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model), data=data)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "×".join(map(str, value))
    return "the network's own" if value is None else str(value)
