"""Presets: named configurations of the command train. Each says what it is for.

The recipes of the papers take the data from the command line, and sets to verify on beside it:

python -m experiments.train ms1mv3-r50 --data.root ms1mv3 --data.verify ms1mv3/lfw.bin
ms1mv3/cfp_fp.bin

Their batch sizes are over all devices. With another --run.batch-size the learning rate follows
(reference_batch, but for AdamW); --run.steps is to be set with it. `python -m experiments.plan
--preset NAME` says what a device needs.
"""

import dataclasses
from collections.abc import Callable

from arcface_jax.training.config import Config, DataConfig, RunConfig

from . import adaptive, arcface_torch, paper
from .recipe import Recipe


def synthetic() -> Config:
    """The default: ArcFace on the embedded synthetic faces at 32×32, minutes on two CPU cores."""
    return Config()


def synthetic_112() -> Config:
    """The synthetic faces at the published 112×112, with a wider network; for an accelerator."""
    base = Config()
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, image_size=112, identities=4000),
        model=dataclasses.replace(base.model, width=64, embedding_size=512),
        run=dataclasses.replace(base.run, steps=4000, batch_size=256),
    )


def folder() -> Config:
    """A folder of identities (needs --data.root DIR), small: half of the people are held out."""
    return Config(
        data=DataConfig(source="folder", test_fraction=0.5),
        run=RunConfig(steps=400, batch_size=32, evaluate_every=100),
    )


RECIPES: dict[str, Recipe] = {
    one.name: one for one in paper.RECIPES + arcface_torch.RECIPES + adaptive.RECIPES
}

PRESETS: dict[str, Callable[[], Config]] = {
    "synthetic": synthetic,
    "synthetic-112": synthetic_112,
    "folder": folder,
    **RECIPES,
}
