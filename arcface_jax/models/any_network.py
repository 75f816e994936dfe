"""Any network as a Flax Linen module, with the weights that it comes with."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from arcface_jax.errors import InputError


def as_linen(network: Any, *, frozen: bool = False) -> nn.Module:
    """A network as a Flax Linen module of (normalised images [N, H, W, 3], train), whose `init`
    gives it the weights that it comes with, in float32: a backbone, or a field of your own module.

    Args:
      network: maps a batch of images, and takes what its signature has of train, inference and key.
        An NNX or an Equinox module is set to training or to use first. A pair is a Linen module
        with its variables; an Equinox module with its state, as `equinox.nn.make_with_state` gives
        them and (images, state) -> (features, state); or a function with its parameters, (params,
        images) -> features. With running statistics as a third, the function is (params,
        statistics, images) -> (features, statistics). A Linen module alone is returned as it is.
      frozen: keeps these weights, and runs as in use; they are kept with the running statistics.

    Raises:
      InputError: it is something else.
    """
    if isinstance(network, nn.Module) and not frozen:
        return network
    first, *rest = network if isinstance(network, tuple) else (network,)
    equinox = any(f"{one.__module__}.".startswith("equinox.") for one in type(first).__mro__)
    if isinstance(first, nn.Module) and len(rest) == 1:
        parts = _linen(first, *rest)
    elif isinstance(first, nnx.Module) and not rest:
        parts = _nnx(first)
    elif equinox and callable(first) and len(rest) < 2:
        parts = _equinox(first, *rest)
    elif not equinox and callable(first) and 0 < len(rest) < 3:
        parts = _function(first, *rest)
    else:
        raise InputError(
            f"{type(first).__name__} is no network; give a flax.linen or flax.nnx module or an "
            "equinox.Module, or (module, variables), (module, state) or (function, params)"
        )
    return Adapted(getattr(first, "__name__", type(first).__name__), *parts, frozen)


def brings_weights(module: nn.Module) -> bool:
    """Whether a network, or a field of it, comes with its weights from `as_linen`."""
    names = {field.name for field in dataclasses.fields(module)} - {"parent"}
    fields = [getattr(module, name) for name in names]
    parts = [field for field in fields if isinstance(field, nn.Module)]
    return isinstance(module, Adapted) or any(map(brings_weights, parts))


def untrained_arrays(module: nn.Module) -> list[str]:
    """The arrays, as "NAME (TYPE)", that a network from `as_linen` brings among its parameters and
    that nothing can train, as they are whole numbers.
    """
    return module.params.others if isinstance(module, Adapted) and not module.frozen else []


class Adapted(nn.Module):
    """What `as_linen` makes: `call` maps (params, batch_stats, images, train, key), the first two
    of the network's own kind, to (features, batch_stats).
    """

    kind: str
    call: Callable[..., Any]
    params: "_Tree"
    batch_stats: "_Tree"
    frozen: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """The network's features of the images."""
        trees = {"params": self.params, "batch_stats": self.batch_stats}
        if self.is_initializing():
            start = {collection: tree.start() for collection, tree in trees.items()}
            start = {"batch_stats": {"frozen": start}} if self.frozen else start
            for collection, values in start.items():
                for name, value in values.items():
                    self.put_variable(collection, name, value)
        own: Any = self.get_variable("batch_stats", "frozen") if self.frozen else self.variables
        train = train and not self.frozen
        given = [tree.filled(own.get(name, {})) for name, tree in trees.items()]
        key = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)
        features, after = self.call(*given, images, train, key)
        if train and self.is_mutable_collection("batch_stats"):
            for name, value in self.batch_stats.nested(after).items():
                self.put_variable("batch_stats", name, value)
        return jnp.asarray(features)


class _Tree:
    """The arrays of any tree in nested dictionaries, under the names on their paths.

    Args:
      tree: part of a network.
      trained: whether only floating arrays count; other leaves stay as they are.
      skip: names at the end of each path that are left out.
    """

    def __init__(self, tree: Any, *, trained: bool = True, skip: int = 0) -> None:
        paths, self._structure = jax.tree_util.tree_flatten_with_path(tree)
        self._leaves, self._skip = [leaf for _, leaf in paths], skip
        self._names = {
            number: self._name(path)
            for number, (path, leaf) in enumerate(paths)
            if isinstance(leaf, np.ndarray | jax.Array)
            and (jnp.issubdtype(leaf.dtype, jnp.floating) or not trained)
        }
        self.others = [
            f"{'/'.join(self._name(path))} ({leaf.dtype})"
            for number, (path, leaf) in enumerate(paths)
            if isinstance(leaf, np.ndarray | jax.Array) and number not in self._names
        ]
        if len(set(self._names.values())) < len(self._names):
            raise InputError("two arrays of the network have one name; rename one of them")

    def _name(self, path: Any) -> tuple[str, ...]:
        names = [jax.tree_util.keystr((key,), simple=True).replace("/", ".") for key in path]
        return tuple(names[: len(names) - self._skip]) or ("value",)

    def start(self) -> dict[str, Any]:
        """The arrays as they were given, in the host's memory; floating ones as float32."""

        def held(leaf: Any) -> np.ndarray:
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            kind = np.float32 if floating else jax.dtypes.canonicalize_dtype(leaf.dtype)
            return np.asarray(leaf).astype(kind)

        return unflatten_dict({name: held(self._leaves[n]) for n, name in self._names.items()})

    def nested(self, tree: Any) -> dict[str, Any]:
        """The arrays of a tree like this one."""
        found = {self._name(path): one for path, one in jax.tree_util.tree_leaves_with_path(tree)}
        return unflatten_dict({name: found[name] for name in self._names.values()})

    def filled(self, nested: Mapping[str, Any]) -> Any:
        """The tree with these arrays in it."""
        given, leaves = flatten_dict(dict(nested)), list(self._leaves)
        for number, name in self._names.items():
            leaves[number] = jnp.asarray(given[name])  # NumPy's can be written to, by NNX
        return jax.tree.unflatten(self._structure, leaves)


_Parts = tuple[Callable[..., Any], _Tree, _Tree]


def _asked(function: Any, train: bool, key: jax.Array) -> dict[str, Any]:
    """Those of the keywords that its signature has."""
    parameters = inspect.signature(function).parameters
    options = {"train": train, "inference": not train, "key": key}
    return {name: value for name, value in options.items() if name in parameters}


def _linen(module: nn.Module, variables: Any) -> _Parts:
    if not isinstance(variables, Mapping) or not {"params"} <= set(variables) <= {*_COLLECTIONS}:
        raise InputError(f"the variables of a Linen module are {' and '.join(_COLLECTIONS)} alone")

    def call(params: Any, stats: Any, images: jax.Array, train: bool, key: jax.Array) -> Any:
        given, options = {"params": params, "batch_stats": stats}, _asked(module, train, key)
        options |= {"mutable": ["batch_stats"], "rngs": {"dropout": key}} if train else {}
        found = module.apply(given, images, **options)
        return (found[0], found[1].get("batch_stats", {})) if train else (found, stats)

    return call, _Tree(variables["params"]), _Tree(variables.get("batch_stats", {}))


_COLLECTIONS = ("params", "batch_stats")


def _nnx(module: nnx.Module) -> _Parts:
    graphs: dict[bool, Any] = {}
    split: Any = nnx.split
    kinds = (nnx.Param, nnx.RngState, ...)
    for train, set_mode in ((True, module.train), (False, module.eval)):
        set_mode()
        graphs[train], params, rngs, others = split(module, *kinds)

    def call(params: Any, stats: Any, images: jax.Array, train: bool, key: jax.Array) -> Any:
        leaves, structure = jax.tree.flatten(rngs)
        for number, leaf in enumerate(leaves):  # each layer has a stream of its own
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaves[number] = jax.random.split(jax.random.fold_in(key, number), leaf.shape)
        seeded = jax.tree.unflatten(structure, leaves)
        net: Any = nnx.merge(graphs[train], params, seeded, stats, copy=True)
        features = net(images, **_asked(net, train, key))
        return features, split(net, *kinds)[3]

    return call, _Tree(params, skip=1), _Tree(others, trained=False, skip=1)


def _equinox(module: Any, *state: Any) -> _Parts:
    import equinox

    def call(net: Any, stats: Any, images: jax.Array, train: bool, key: jax.Array) -> Any:
        net = equinox.nn.inference_mode(net, not train)
        found = net(images, *stats, **_asked(net, train, key))
        return (found[0], (found[1],)) if state else (found, stats)

    return call, _Tree(module), _Tree(state, trained=False)


def _function(function: Callable[..., Any], params: Any, *stats: Any) -> _Parts:
    def call(own: Any, stats: Any, images: jax.Array, train: bool, key: jax.Array) -> Any:
        found = function(own, *stats, images, **_asked(function, train, key))
        return (found[0], (found[1],)) if stats else (found, stats)

    as_arrays = [jax.tree.map(np.asarray, tree) for tree in (params, stats)]
    return call, _Tree(as_arrays[0]), _Tree(as_arrays[1], trained=False)
