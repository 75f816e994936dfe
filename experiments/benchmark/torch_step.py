"""Networks and a training step in plain PyTorch, to compare with."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from arcface_jax.models import registry
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.vit import VisionTransformer

from .torch_iresnet import TorchIResNet
from .torch_vit import TorchVit


def torch_network(name: str, width: int, embedding_size: int, image_size: int) -> nn.Module:
    """The iresnet… or vit_… of this name of the registry, in training."""
    ours = registry.create(name, width=width, embedding_size=embedding_size)
    if isinstance(ours, VisionTransformer):
        channels = ours.channels * width // 64
        return TorchVit(channels, ours.depth, embedding_size, image_size, rate=ours.drop_path)
    assert isinstance(ours, IResNet)
    return TorchIResNet(ours.stage_blocks, width, embedding_size, image_size)


def arcface_loss(
    embeddings: torch.Tensor,
    class_weights: torch.Tensor,
    labels: torch.Tensor,
    margin: float = 0.5,
    scale: float = 64.0,
) -> torch.Tensor:
    """Mean cross-entropy of s · cos(θ + m) for the own class, s · cos θ for the others."""
    cosine = functional.linear(
        functional.normalize(embeddings), functional.normalize(class_weights)
    )
    cosine = cosine.float()  # autocast gives bfloat16
    own = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-7, 1 - 1e-7)
    logits = scale * cosine.scatter(1, labels[:, None], torch.cos(torch.acos(own) + margin))
    return functional.cross_entropy(logits, labels)


def torch_step(
    network: nn.Module,
    embedding_size: int,
    image_size: int,
    batch: int,
    classes: int,
    *,
    device: str = "cpu",
    bfloat16: bool = False,
) -> Callable[[], torch.Tensor]:
    """A training step, channels last, on images that stay the same: takes it and gives the loss.

    With `bfloat16` network and head run in autocast, and on a GPU the network is compiled and cuDNN
    measures which of its algorithms is fastest.
    """
    torch.backends.cudnn.benchmark = True
    network.to(device, memory_format=torch.channels_last)
    forward = torch.compile(network) if bfloat16 and device == "cuda" else network
    weights = nn.Parameter(0.01 * torch.randn(classes, embedding_size, device=device))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD([*trained, weights], lr=0.1, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(batch, 3, image_size, image_size)
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % classes

    def step() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = arcface_loss(forward(images), weights, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step
