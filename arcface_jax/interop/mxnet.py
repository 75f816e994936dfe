"""Imports trained MXNet models: insightface's first ones, as in the paper. Needs no MXNet."""

import dataclasses
import os
import re
from collections.abc import Mapping

import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.errors import InputError, concerning, printable
from arcface_jax.interop.graph_layers import check_same, is_usual, network_of
from arcface_jax.interop.model import TrainedModel, check_finite, check_floating
from arcface_jax.interop.mxnet_file import read_params
from arcface_jax.interop.mxnet_graph import (
    Graph,
    arithmetic_of,
    compute,
    layers_of,
    read_graph,
)
from arcface_jax.pixels import PixelConvention

_CLASSIFIER = "fc7_weight"
_TOLERANCE = 1e-3


def import_mxnet(path: str | os.PathLike[str]) -> TrainedModel:
    """Reads PREFIX-0000.params with PREFIX-symbol.json beside it, as `save_checkpoint` wrote them.

    Reads an IResNet with output E (LResNet50E-IR) or a MobileFaceNet that ends in a global
    convolution (y1, y2). The graph decides: each operator's options in the file, and the RGB pixel
    range by its first arithmetic. The model computes what the graph computes; this is checked on
    one image. Scales fixed at 1, a bias before a normalisation and other epsilons are merged into
    the normalisation's parameters (`graph_layers.network_of`).


    Returns: the model, with the classifier `fc7_weight` if the file has it. Its `source` names
      arrays that the embedding does not need.

    Raises:
      InputError: a file is missing or damaged, it holds another network, or the graph does not show
        which pixels it takes; the message names the file and the node.
    """
    path = as_path(path)
    arrays = read_params(path)
    symbol = path.with_name(re.sub(r"-\d{4,}$", "", path.stem) + "-symbol.json")
    if not symbol.exists():
        raise InputError(f"{symbol}: missing; it holds the graph of {path.name}, copy it as well")
    graph = read_graph(symbol, arrays)
    used = {node.name: arrays[node.name] for node in graph.nodes if node.name in arrays}
    with concerning(str(path)):
        check_floating(used)
        check_finite(used)
    with concerning(str(symbol)):
        pixels = _pixels(graph)
        backbone, variables, image_size = network_of(layers_of(graph, used))
        model = TrainedModel(backbone, variables, pixels, image_size, "")
        images = np.random.default_rng(0).integers(0, 256, (1, *image_size, 3), np.uint8)
        fed = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
        check_same(model, images, compute(graph, used, fed), _TOLERANCE)
    others = {name: array for name, array in arrays.items() if name not in used}
    classifier = _classifier(others, model.embedding_size)
    if classifier is not None:
        with concerning(str(path)):
            check_finite({_CLASSIFIER: classifier})
        del others[_CLASSIFIER]
    left = f" (without {_listed(others)}, which the embedding does not need)" if others else ""
    return dataclasses.replace(model, source=path.name + left, class_weights=classifier)


def _classifier(others: Mapping[str, np.ndarray], embedding_size: int) -> np.ndarray | None:
    """[C, D], if it is there under insightface's name."""
    found = others.get(_CLASSIFIER)
    if found is None or found.dtype.kind in "iub" or found.shape[1:] != (embedding_size,):
        return None
    with np.errstate(over="ignore"):
        return np.asarray(found, np.float32)


def _pixels(graph: Graph) -> PixelConvention:
    """(x − offset) / divisor of RGB bytes, from the graph's first arithmetic."""
    found = arithmetic_of(graph)
    if found is None:
        raise InputError(
            "does no arithmetic with the pixels before its first layer, so nothing tells which it "
            "takes; add what its training code did with them, such as the nodes _minus_scalar and "
            "_mul_scalar after data"
        )
    factor, shift = found
    low, high = shift, 255.0 * factor + shift
    if not is_usual(low, high):
        raise InputError(
            f"its arithmetic before the first layer makes {low:.4g} … {high:.4g} of pixels from 0 "
            "to 255; no network takes these"
        )
    return PixelConvention("rgb", round(-shift / factor, 6), round(1 / factor, 6))


def _listed(names: Mapping[str, np.ndarray]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return printable(", ".join(sorted(names)[:5])) + more
