"""Every setting of a training run, as frozen dataclasses that JSON can hold."""

import dataclasses
from typing import Literal

from arcface_jax.data.augment import Augmentation
from arcface_jax.losses import ArcFace, Loss, loss_class


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on, and who is held out."""

    source: Literal["synthetic", "folder", "auto"] = "synthetic"
    """synthetic: drawn faces. folder: identity/image files under data.root. auto: whatever
    data.root is.
    """
    root: str | None = None
    """Folder or zip file with a folder of images per person. With data.source auto also
    class/array.npy, train.rec, a list (.csv, .tsv, .txt, .lst), Parquet, .tar shards, a prepared
    TFDS folder, or tfds:NAME; here or in a bucket (s3://…, gs://…). Of several splits, such as
    train and test, one is given as PATH:SPLIT.
    """
    list_root: str | None = None
    """Folder or zip file that the paths of a list are relative to; the list's own folder if not
    given.
    """
    image_size: int = 32
    """Height in pixels that images are rendered at or resized to; also their width, unless that
    is given.
    """
    image_width: int | None = None
    """Width in pixels, for a network that takes images of another shape: 96 with 112 for
    MobileFaceNet.
    """
    identities: int = 800
    """People to draw (source synthetic), training and test together."""
    images_per_identity: int = 20
    """Images of each person (source synthetic)."""
    test_fraction: float = 0.25
    """Share of the identities that is never trained on and verifies the model."""
    folds: int | None = None
    """K of a cross-validation, in place of data.test-fraction: seed S holds out fold S mod K.
    `experiments.compare --seeds 0 1 2 3 4 -- --data.folds 5` is the whole, summed up; folds share
    training images, so that a test over them is somewhat too sure.
    """
    hold_out: Literal["classes", "images"] = "classes"
    """What a fold holds out (data.folds). classes: whole classes. images: some of every class's;
    then top-1 and top-5, the share of them with the right class first or among five, are reported.
    """
    groups: str | None = None
    """Regular expression (data.folds): images with the same match in their path, or the same first
    parenthesis, such as 'day(\\d+)', are held out together.
    """
    pairs: int = 6000
    """Verification pairs drawn from the held-out identities, half of them of one person; TAR is
    also of all their pairs.
    """
    flip_test: bool = True
    """When verifying, add the embedding of the mirror image."""
    loading: Literal["memory", "stream"] = "memory"
    """memory: decode the training images once, at the start. stream: decode them batch by
    batch, ahead of the step.
    """
    unreadable: Literal["stop", "skip"] = "stop"
    """What an image that cannot be decoded does: stop the run, or be left out and counted, together
    with people who have no other. stream: another image of the person takes its place.
    """
    sampler: Literal["shuffled", "balanced", "capped"] = "shuffled"
    """shuffled: every image once an epoch. balanced: data.images-each of every identity in a batch,
    for losses over pairs. capped: no identity more than data.images-each times an epoch.
    """
    images_each: int = 4
    """Images of one identity in a batch (sampler balanced), or at most in an epoch (sampler
    capped).
    """
    verify: tuple[str, ...] = ()
    """More sets to verify on, besides the held-out people. Each is [NAME=]SOURCE[+PAIRS], where
    SOURCE is a .bin set or any other people, and PAIRS a list as the command evaluate takes it;
    without one, data.pairs of them are drawn.
    """

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.image_size, self.image_size if self.image_width is None else self.image_width

    @property
    def holds_out(self) -> bool:
        """Whether a part of the source is not trained on."""
        return self.test_fraction > 0 or self.folds is not None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The embedding network."""

    name: str = "iresnet18"
    """Backbone: iresnet18 … 200, AdaFace's ir18 … 200, mobilefacenet, mbf, vit_t … A network of
    your own, in Flax, Equinox or plain JAX, is module:attribute, such as my_nets:Net for the class
    or function Net in my_nets.py. It is given the settings below that it has as parameters.
    `arcface_jax.models.registry.names()` has all.
    """
    width: int = 16
    """Channels of the first stage; 64 is the published size."""
    embedding_size: int = 128
    """Dimension D of the embedding; 512 in the paper."""
    dropout: float = 0.0
    """Dropout rate before the embedding layer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type the backbone computes in; parameters, statistics and the loss stay float32."""
    remat: bool = False
    """Keep only each block's input for the backward pass and compute the rest again
    (`jax.checkpoint`): less memory, about a third more time.
    """
    running_variance: Literal["biased", "unbiased"] = "biased"
    """What a batch of n values adds to the running variance of a batch normalisation: its variance
    as Flax and MXNet take it, or n/(n − 1) times that, as PyTorch does.
    """
    initial_weights: Literal["he", "arcface_torch"] = "he"
    """Weights at the start: He's for convolutions, or what arcface_torch starts each network with,
    N(0, .1²) for the convolutions of an IResNet.
    """
    epsilon: float | None = None
    """ε of the batch normalisations; the network's own (1e-5, vit_t … 2e-5) if not given."""
    init: str | None = None
    """Trained model to start from: a run, or a PyTorch, .onnx or .params file. What is not set of
    model.name, width, embedding-size, epsilon, pixels and of the images' size is the model's.
    """
    teacher: str | None = None
    """Trained model to learn from as well: a run, or a PyTorch, .onnx or .params file of the same
    embedding size, images and pixels. w·(1 − cos(x, t)) of its embeddings t is added to the loss.
    """
    teacher_weight: float = 100.0
    """w, of model.teacher."""
    pixels: Literal["arcface_torch", "insightface_mxnet", "adaface", "magface", "imagenet"] = (
        "arcface_torch"
    )
    """What the backbone expects of its pixels: RGB over 127.5, RGB over 128, BGR over 127.5, BGR
    from 0 to 1, or RGB less ImageNet's mean over its deviation.
    """


def with_loss(config: "Config", name: str) -> "Config":
    """The configuration with the loss of this name, see `loss_class`.

    Another loss than the one that is there starts from its own numbers, but for the scale, which
    stays: it follows the network and the number of classes.
    """
    cls = loss_class(name)
    if cls is type(config.loss):
        return config
    fields = {field.name for field in dataclasses.fields(cls)}
    scale = {"scale": getattr(config.loss, "scale", DEFAULT_SCALE)} if "scale" in fields else {}
    default = DEFAULT_LOSS if cls is type(DEFAULT_LOSS) else cls()
    return dataclasses.replace(config, loss=dataclasses.replace(default, **scale))


DEFAULT_SCALE = 16.0
"""Radius of the sphere in a configuration that names none: about twice the least that can tell a
few hundred people apart. The papers' 64 is too much for a small network.
"""

DEFAULT_LOSS = ArcFace(scale=DEFAULT_SCALE, exact_from=0.5)
"""With the exact gradient from the start the embeddings fill few dimensions: docs/slope.md."""


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """How the loss goes over the classes. Its value is the same for dense, chunked and sharded."""

    kind: Literal["dense", "chunked", "sharded"] = "dense"
    """All logits at once, a chunk of the classes at a time, or the classes split over the devices.
    chunked takes memory O(batch · chunk), sharded as much on each device.
    """
    chunk: int | None = None
    """The most classes at a time (chunked and sharded). 2,048 on a CPU and 65,536 on other devices
    if not given.
    """
    sample_rate: float = 1.0
    """Partial FC: share of the classes in each step's softmax, the batch's own always among
    them.
    """
    update: Literal["optimiser", "fused"] = "optimiser"
    """optimiser: a gradient of all class weights, through the optimiser. fused: rows are updated by
    SGD as their gradient is formed, which is never stored (chunked and sharded).
    """
    unsampled: Literal["update", "keep"] = "update"
    """Classes outside the sample under update fused: go on with momentum and decay (Partial FC
    V2), or stay (V1).
    """
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How update fused stores class weights and momentum; bfloat16 is rounded at random."""
    precision: Literal["highest", "high", "bfloat16"] | None = None
    """Of the products with the class weights, forward and backward. highest: float32. high: TF32 on
    a GPU, three bf16 products on a TPU. bfloat16: factors rounded to bf16, sums in float32. highest
    on a CPU and bfloat16 on other devices if not given.
    """
    kernel: Literal["xla", "pallas"] = "xla"
    """What forms the sums over classes (chunked and sharded, update optimiser). pallas: in tiles
    whose logits are never written to memory, for GPU and TPU; on an H100 it is three times slower.
    """
    skip: float = 0.0
    """δ of kernel pallas: tiles of negligible probabilities are left out of the gradient, which
    changes that of the mean loss by a normalised embedding by at most δ·s/N.
    """


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """What turns gradients into updates, and its learning rate over time."""

    name: str = "sgd"
    """sgd, or any optimiser that optax has by this name: adamw, lamb, lion, adagrad …"""
    options: str = ""
    """Further arguments of an optimiser other than sgd, as JSON: {"b1": 0.9, "b2": 0.99}."""
    learning_rate: float = 0.1
    """Peak learning rate."""
    reference_batch: int | None = None
    """The batch size that learning-rate is meant for; it is scaled linearly to run.batch-size.
    None: taken as it is.
    """
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay λ: coupled, λ·w added to the gradient, as the papers do; or an optimiser's
    own (adamw, lamb …).
    """
    decay: Literal["kernels", "all"] = "kernels"
    """What decays. kernels: convolutions, dense layers, class weights. all: also biases,
    normalisation, PReLU.
    """
    schedule: Literal["polynomial", "steps", "cosine", "constant"] = "polynomial"
    """polynomial: to 0 with power 1 (arcface_torch). steps: ÷10 at each of optimiser.drops (the
    paper). cosine.
    """
    drops: tuple[float, ...] = (0.625, 0.875)
    """Shares of the run at which schedule steps divides the rate by 10; the paper's CASIA run:
    20K and 28K of 32K.
    """
    warmup: float = 0.05
    """Share of the run over which the learning rate rises linearly from 0."""
    clip: float | None = None
    """Longest norm of the gradient; a longer one is scaled down to it. None: as it is."""
    clip_over: Literal["all", "backbone"] = "all"
    """What clip measures and scales. all: backbone and head together. backbone: the backbone
    alone, as arcface_torch does.
    """
    ema: float = 0.0
    """Decay of a moving average of the backbone's weights and statistics, verified beside them;
    0 keeps none.
    """
    frozen: float = 0.0
    """Share of the run at its start in which only the head learns; 1 for a backbone that never
    does.
    """
    backbone_rate: float = 1.0
    """What the backbone's learning rate is multiplied by, to fine-tune it gently under a new
    head.
    """
    first_layer_rate: float = 1.0
    """What the learning rate of the backbone's first layer is multiplied by; from there it rises
    geometrically, layer by layer, to the last one's, in the order in which the network uses them.
    """
    start_decay: float = 0.0
    """Strength λ of a pull of the backbone's weights w to those of model.init, w₀: λ·(w − w₀) is
    added to their gradient, in place of their weight decay (L2-SP). 0 for none.
    """


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How long, how often, where."""

    steps: int = 1400
    """Optimiser steps."""
    batch_size: int = 64
    """Images a step, over all devices."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, for less memory: the gradient is the
    mean over all of the batch; batch statistics, and those of adaptive losses, are each part's own.
    On a CPU all parts are compiled: a loop's convolutions are many times slower there.
    """
    seed: int = 0
    """Seed of everything random: data, split, pairs, initial weights, shuffling, flips."""
    evaluate_every: int = 350
    """Steps between verifications."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; default as often as verifications."""
    keep: int = 2
    """Newest checkpoints to keep."""
    keep_best: int = 0
    """Checkpoints of the best verification accuracy to keep besides; each verification then
    writes one.
    """
    log_every: int = 10
    """Steps between lines of metrics."""
    bad_steps: int = 10
    """Steps in a row with a loss or gradient that is not finite, each skipped, after which the run
    stops, at the next line of metrics or verification.
    """
    folder: str | None = None
    """Run folder to write, here or in a bucket (s3://…, gs://…); default runs/LOSS-DATE-TIME. An
    unfinished run of the same configuration there goes on.
    """
    resume: Literal["auto", "changed"] = "auto"
    """changed: go on with the run in run.folder although the configuration differs."""
    devices: int | None = None
    """How many devices to use; default all."""
    distributed: bool = False
    """One of several processes: join the others by `jax.distributed.initialize`, which finds SLURM
    and Open MPI (one task a GPU), TPU pods, or the addresses in JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    parallel: Literal["jit", "pmap"] = "jit"
    """Over several devices: jit over a mesh, or pmap."""
    statistics: Literal["global", "local"] = "global"
    """Batch statistics over all devices, or each device's own (pmap only)."""
    profile: int = 0
    """Steps to trace, after the first ten, into the run folder's profile/ for Perfetto, XProf
    or TensorBoard.
    """
    wandb: str | None = None
    """Weights & Biases project to report to as well (needs the wandb package)."""
    on_event: str | None = None
    """Shell command to run at bad steps, a stall, falling accuracy and the end, with ARCFACE_EVENT
    and ARCFACE_MESSAGE set and the run's status.json on its standard input. config.json never has
    it.
    """


PROFILE_AFTER = 10
"""Steps of this process before a trace begins, so that compilation is not in it."""

PLACE_SETTINGS = (
    "folder",
    "resume",
    "devices",
    "distributed",
    "keep",
    "keep_best",
    "profile",
    "wandb",
    "on_event",
)
"""Settings of `RunConfig` that say where and how a run is made, not what it is: they may change
when it goes on.
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run. Saved as config.json in its run folder."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    loss: Loss = DEFAULT_LOSS
    head: HeadConfig = dataclasses.field(default_factory=HeadConfig)
    optimiser: OptimiserConfig = dataclasses.field(default_factory=OptimiserConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
