"""Presets: named configurations of `experiments.train`. Each says what it is for."""

import dataclasses

from arcface_jax.training.config import Config, DataConfig, RunConfig


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
        data=DataConfig(source="folder", test_fraction=0.5), run=RunConfig(steps=400, batch_size=32, evaluate_every=100)
    )


PRESETS = {"synthetic": synthetic, "synthetic-112": synthetic_112, "folder": folder}
