"""The runs of AdaFace (Kim et al., arXiv:2204.00964) and MagFace (Meng et al., arXiv:2103.06627).

References: mk-minchul/AdaFace and IrvingMeng/MagFace, their scripts and README. In both r18 and r50
  are IResNets with
dropout .4; AdaFace's have no convolution on a shortcut that keeps its width, those here do.
"""

import dataclasses

from arcface_jax.data.augment import ADAFACE_AUGMENTATION, Augmentation
from arcface_jax.losses import AdaFace, MagFace
from arcface_jax.training.config import Config, HeadConfig, OptimiserConfig

from .recipe import (
    CASIA,
    MS1MV2,
    R50_MAGFACE,
    DataSet,
    long_run,
    published_size,
    recipe,
    steps_of,
    stream_of_crops,
)

_BATCH = 512


def _in_steps(data: DataSet, epochs: int, drops: tuple[int, ...], config: Config) -> Config:
    """The configuration with SGD, lr .1 ÷10 after each of these epochs."""
    optimiser = dataclasses.replace(
        config.optimiser,
        learning_rate=0.1,
        reference_batch=_BATCH,
        weight_decay=5e-4,
        momentum=0.9,
        schedule="steps",
        drops=tuple(epoch / epochs for epoch in drops),
        warmup=0.0,
    )
    return dataclasses.replace(
        config, optimiser=optimiser, run=long_run(steps_of(epochs, data, _BATCH), _BATCH)
    )


def _adaface(network: str, data: DataSet, head: HeadConfig) -> Config:
    # Their normalisations do not decay either.
    config = Config(
        data=stream_of_crops(),
        model=dataclasses.replace(published_size(network, dropout=0.4), pixels="adaface"),
        augmentation=ADAFACE_AUGMENTATION,
        loss=AdaFace(),
        head=head,
        optimiser=OptimiserConfig(decay="kernels"),
    )
    return _in_steps(data, 26, (12, 20, 24), config)


def _magface(network: str) -> Config:
    config = Config(
        data=stream_of_crops(),
        model=dataclasses.replace(published_size(network, dropout=0.4), pixels="magface"),
        augmentation=Augmentation(),
        loss=MagFace(),
        head=HeadConfig(kind="sharded"),
        optimiser=OptimiserConfig(decay="all"),
    )
    return _in_steps(MS1MV2, 25, (10, 18, 22), config)


@recipe(CASIA, published="LFW 99.13, CFP-FP 92.59, AgeDB-30 92.72 (AdaFace's README)", speed=None)
def adaface_casia_r18() -> Config:
    """CASIA-WebFace, r18, AdaFace .4, with crops, low resolution and changed colours; pixels are
    BGR.

    The schedule is that of AdaFace's scripts, which are for MS1MV2.
    """
    return _adaface("iresnet18", CASIA, HeadConfig())


@recipe(
    CASIA, published="LFW 99.42, CFP-FP 96.41, AgeDB-30 94.38 (AdaFace's README)", speed=R50_MAGFACE
)
def adaface_casia_r50() -> Config:
    """CASIA-WebFace, r50, AdaFace .4, with crops, low resolution and changed colours; pixels are
    BGR.

    The schedule is that of AdaFace's scripts, which are for MS1MV2.
    """
    return _adaface("iresnet50", CASIA, HeadConfig())


@recipe(
    MS1MV2,
    published="LFW 99.82, CFP-FP 97.86, AgeDB-30 97.85, IJB-C at FAR 1e-4 96.27 (AdaFace's README)",
    speed=R50_MAGFACE,
)
def adaface_ms1mv2_r50() -> Config:
    """MS1MV2, r50, AdaFace .4, with crops, low resolution and changed colours; pixels are BGR."""
    return _adaface("iresnet50", MS1MV2, HeadConfig(kind="sharded"))


@recipe(MS1MV2, published=None, speed=None)
def magface_ms1mv2_r18() -> Config:
    """MS1MV2, r18, MagFace (10, 110, .45, .8, 35): the run of its r50 with a smaller network."""
    return _magface("iresnet18")


@recipe(MS1MV2, published=None, speed=R50_MAGFACE)
def magface_ms1mv2_r50() -> Config:
    """MS1MV2, r50, MagFace (10, 110, .45, .8, 35): its authors' script; pixels are BGR in [0, 1].

    They publish the numbers of r100: IJB-C at FAR 1e-4 95.97 (as AdaFace quotes it).
    """
    return _magface("iresnet50")


RECIPES = (
    adaface_casia_r18,
    adaface_casia_r50,
    adaface_ms1mv2_r50,
    magface_ms1mv2_r18,
    magface_ms1mv2_r50,
)
