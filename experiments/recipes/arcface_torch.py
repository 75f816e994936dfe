"""The runs of arcface_torch (insightface, recognition): polynomial decay, no dropout, weight decay
of all parameters, the backbone's gradient clipped at 5, its initial weights, running variances as
PyTorch keeps them.

References: insightface, recognition/arcface_torch, configs and README; An et al., Partial FC
(arXiv:2010.05222, arXiv:2203.15565); Zhu et al., WebFace260M (arXiv:2103.04098).

Theirs computes in float16, these in bfloat16.
"""

from arcface_jax.losses import ArcFace, CosFace, Loss
from arcface_jax.training.config import Config, HeadConfig, ModelConfig, OptimiserConfig

from .recipe import (
    CASIA,
    GLINT360K,
    MS1MV3,
    R50_ARCFACE_TORCH,
    R50_PARTIAL_FC,
    R100_MAGFACE,
    WEBFACE4M,
    WEBFACE12M,
    WEBFACE42M,
    DataSet,
    Speed,
    long_run,
    published_size,
    recipe,
    steps_of,
    stream_of_crops,
)

# Their margin is computed without gradients.
_ARCFACE = ArcFace(gradient="straight_through")
_COSFACE = CosFace(margin=0.4)
_SHARDED = HeadConfig(kind="sharded")


def _network(name: str) -> ModelConfig:
    """As PyTorch starts it and keeps its running variances."""
    return published_size(name, running_variance="unbiased", initial_weights="arcface_torch")


def _arcface_torch(
    network: str,
    data: DataSet,
    loss: Loss,
    head: HeadConfig = _SHARDED,
    *,
    epochs: int = 20,
    batch_size: int = 1024,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    warmup_epochs: int = 0,
) -> Config:
    return Config(
        data=stream_of_crops(),
        model=_network(network),
        loss=loss,
        head=head,
        optimiser=OptimiserConfig(
            learning_rate=learning_rate,
            reference_batch=batch_size,
            weight_decay=weight_decay,
            momentum=0.9,
            decay="all",
            schedule="polynomial",
            warmup=warmup_epochs / epochs,
            clip=5.0,
            clip_over="backbone",
        ),
        run=long_run(steps_of(epochs, data, batch_size), batch_size),
    )


@recipe(CASIA, published=None, speed=R50_ARCFACE_TORCH)
def casia_r50_polynomial() -> Config:
    """CASIA-WebFace, r50, ArcFace .5: 34 epochs of batch 512, as arcface_torch has for this set,
    polynomial decay.

    Its configuration with 34 epochs is older than the polynomial decay, which all its runs have
    now.
    """
    return _arcface_torch("iresnet50", CASIA, _ARCFACE, HeadConfig(), epochs=34, batch_size=512)


@recipe(
    MS1MV3,
    published="IJB-C at FAR 1e-4 96.37, at 1e-5 94.47 (arcface_torch)",
    speed=R50_ARCFACE_TORCH,
)
def ms1mv3_r50() -> Config:
    """MS1MV3, r50, ArcFace .5: arcface_torch's run on eight devices."""
    return _arcface_torch("iresnet50", MS1MV3, _ARCFACE)


@recipe(
    MS1MV3, published="IJB-C at FAR 1e-4 96.85, at 1e-5 95.02 (arcface_torch)", speed=R100_MAGFACE
)
def ms1mv3_r100() -> Config:
    """MS1MV3, r100, ArcFace .5: arcface_torch's run on eight devices."""
    return _arcface_torch("iresnet100", MS1MV3, _ARCFACE)


@recipe(MS1MV3, published="IJB-C at FAR 1e-4 94.23, at 1e-5 91.33 (arcface_torch)", speed=None)
def ms1mv3_mbf() -> Config:
    """MS1MV3, the MobileFaceNet mbf, ArcFace .5: arcface_torch's run, twice as long and with a
    fifth of the decay.
    """
    return _arcface_torch("mbf", MS1MV3, _ARCFACE, epochs=40, weight_decay=1e-4)


@recipe(
    GLINT360K,
    published="IJB-C at FAR 1e-4 97.55, at 1e-5 96.38 (arcface_torch)",
    speed=R100_MAGFACE,
)
def glint360k_r100() -> Config:
    """Glint360K, r100, CosFace .4: arcface_torch's run, classes split over the devices.

    The softmax is over all classes, as in the published run; --head.sample-rate 0.1 is Partial FC's
    sample.
    """
    return _arcface_torch("iresnet100", GLINT360K, _COSFACE, weight_decay=1e-4)


@recipe(WEBFACE4M, published=None, speed=R50_ARCFACE_TORCH)
def webface4m_r50() -> Config:
    """WebFace4M, r50, CosFace .4: arcface_torch's run, classes split over the devices, all in
    the softmax.
    """
    return _arcface_torch("iresnet50", WEBFACE4M, _COSFACE)


@recipe(
    WEBFACE4M,
    published="IJB-C at FAR 1e-4 97.19, at 1e-5 95.48 (arcface_torch)",
    speed=R100_MAGFACE,
)
def webface4m_r100() -> Config:
    """WebFace4M, r100, CosFace .4: arcface_torch's run, classes split over the devices, all in
    the softmax.
    """
    return _arcface_torch("iresnet100", WEBFACE4M, _COSFACE)


_PARTIAL = HeadConfig(kind="sharded", sample_rate=0.2)


@recipe(WEBFACE12M, published=None, speed=R50_PARTIAL_FC)
def webface12m_r50() -> Config:
    """WebFace12M, r50, CosFace .4, Partial FC with a fifth of the classes.

    arcface_torch's run of r50 has all classes in the softmax: --head.sample-rate 1.
    """
    return _arcface_torch("iresnet50", WEBFACE12M, _COSFACE, _PARTIAL)


@recipe(
    WEBFACE12M,
    published="IJB-C at FAR 1e-4 97.60, at 1e-5 95.90 (arcface_torch)",
    speed=R100_MAGFACE,
)
def webface12m_r100() -> Config:
    """WebFace12M, r100, CosFace .4, Partial FC with a fifth of the classes: arcface_torch's run."""
    return _arcface_torch("iresnet100", WEBFACE12M, _COSFACE, _PARTIAL)


@recipe(
    WEBFACE42M,
    published="IJB-C at FAR 1e-4 97.53, at 1e-5 96.16 (arcface_torch)",
    speed=Speed(5900, "arcface_torch's table of this run: 8 GPUs, their model not stated"),
)
def webface42m_r50() -> Config:
    """WebFace42M, r50, CosFace .4, Partial FC with a fifth of the classes: arcface_torch's run,
    8 × 512 images.
    """
    return _arcface_torch(
        "iresnet50",
        WEBFACE42M,
        _COSFACE,
        _PARTIAL,
        batch_size=4096,
        learning_rate=0.4,
        warmup_epochs=2,
    )


@recipe(
    WEBFACE42M,
    published="IJB-C at FAR 1e-4 97.85, at 1e-5 96.63 (arcface_torch)",
    speed=Speed(5200, "arcface_torch's table of this run: 16 GPUs, their model not stated"),
)
def webface42m_r100() -> Config:
    """WebFace42M, r100, CosFace .4, Partial FC with a fifth of the classes: arcface_torch's
    run, 16 × 256 images.
    """
    return _arcface_torch(
        "iresnet100",
        WEBFACE42M,
        _COSFACE,
        _PARTIAL,
        batch_size=4096,
        learning_rate=0.3,
        warmup_epochs=1,
    )


@recipe(
    WEBFACE42M,
    published="IJB-C at FAR 1e-4 97.91, at 1e-5 97.05 (arcface_torch)",
    speed=Speed(13_800, "arcface_torch's table of the same batch: 64 GPUs, their model not stated"),
)
def webface42m_vit_b() -> Config:
    """WebFace42M, ViT-B, CosFace .4, Partial FC with .3 of the classes, AdamW: arcface_torch's run
    on eight devices.

    A batch is computed in 12 parts, 256 images of each on each of 8 devices; with more, lower
    --run.accumulate. The published network leaves out 5 % of branches and of tokens, vit_b here 10
    %.
    """
    epochs, batch_size = 40, 24_576
    return Config(
        data=stream_of_crops(),
        model=_network("vit_b"),
        loss=_COSFACE,
        head=HeadConfig(kind="sharded", sample_rate=0.3),
        optimiser=OptimiserConfig(
            name="adamw",
            options='{"b1": 0.9, "b2": 0.999, "eps": 1e-8}',
            learning_rate=1e-3,
            weight_decay=0.1,
            decay="all",
            schedule="polynomial",
            warmup=0.1,
            clip=5.0,
            clip_over="backbone",
        ),
        run=long_run(steps_of(epochs, WEBFACE42M, batch_size), batch_size, accumulate=12),
    )


RECIPES = (
    casia_r50_polynomial,
    ms1mv3_r50,
    ms1mv3_r100,
    ms1mv3_mbf,
    glint360k_r100,
    webface4m_r50,
    webface4m_r100,
    webface12m_r50,
    webface12m_r100,
    webface42m_r50,
    webface42m_r100,
    webface42m_vit_b,
)
