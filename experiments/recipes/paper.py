"""The runs of the ArcFace paper (Deng et al., arXiv:1801.07698): SGD, the rate divided by 10 twice,
dropout .4.

Their code's rule past θ + m = π is the linear one. It computed in float32, these in bfloat16.
"""

import dataclasses

from arcface_jax.losses import ArcFace
from arcface_jax.training.config import Config, HeadConfig, OptimiserConfig

from .recipe import (
    CASIA,
    MS1MV2,
    R50_MAGFACE,
    R100_MAGFACE,
    long_run,
    published_size,
    recipe,
    stream_of_crops,
)

_BATCH = 512
_LOSS = ArcFace(past_pi="linear")


def _paper(network: str, steps: int, drops: tuple[int, ...], head: HeadConfig) -> Config:
    return Config(
        data=stream_of_crops(),
        model=dataclasses.replace(published_size(network, dropout=0.4), pixels="insightface_mxnet"),
        loss=_LOSS,
        head=head,
        optimiser=OptimiserConfig(
            learning_rate=0.1,
            reference_batch=_BATCH,
            weight_decay=5e-4,
            momentum=0.9,
            schedule="steps",
            drops=tuple(step / steps for step in drops),
            warmup=0.0,
        ),
        run=long_run(steps, _BATCH),
    )


@recipe(
    CASIA,
    published="LFW 99.53, CFP-FP 95.56, AgeDB-30 95.15 (the paper, Table 2)",
    speed=R50_MAGFACE,
)
def casia_r50() -> Config:
    """CASIA-WebFace, r50, ArcFace .5: the run of the paper's Table 2.

    The published result is of the same schedule; its margins .4, .45, .55 are --loss.margin away,
    its other losses --loss.name.
    """
    return _paper("iresnet50", 32_000, (20_000, 28_000), HeadConfig())


@recipe(MS1MV2, published=None, speed=R50_MAGFACE)
def ms1mv2_r50() -> Config:
    """MS1MV2, r50, ArcFace .5: the paper's schedule.

    The paper publishes r100. arcface_torch, by a schedule of its own, has IJB-C at FAR 1e-4 95.97
    for r50.
    """
    return _paper("iresnet50", 180_000, (100_000, 160_000), HeadConfig(kind="sharded"))


@recipe(
    MS1MV2,
    published="CALFW 95.45, CPLFW 92.08, IJB-C at FAR 1e-4 96.03 (the paper, the last as AdaFace "
    "quotes it)",
    speed=R100_MAGFACE,
)
def ms1mv2_r100() -> Config:
    """MS1MV2, r100, ArcFace .5: the paper's best model.

    arcface_torch, by a schedule of its own, has IJB-C at FAR 1e-4 96.37.
    """
    return _paper("iresnet100", 180_000, (100_000, 160_000), HeadConfig(kind="sharded"))


RECIPES = (casia_r50, ms1mv2_r50, ms1mv2_r100)
