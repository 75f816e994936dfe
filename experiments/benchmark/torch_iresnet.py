"""IResNet in plain PyTorch, with the weights' keys of arcface_torch."""

from collections.abc import Sequence

import torch
from torch import nn


class Excite(nn.Module):
    """Squeeze and excitation: channels scaled by what their means say."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, channels, H, W] to the same shape."""
        gain = torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(gain))


class Block(nn.Module):
    """BN – conv3×3 – BN – PReLU – conv3×3 (strided) – BN (– squeeze, excitation) + shortcut."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, epsilon: float, squeeze: int
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=epsilon)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=epsilon)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, eps=epsilon)
        self.se_block = Excite(outputs, squeeze) if squeeze else None
        projection = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False),
            nn.BatchNorm2d(outputs, eps=epsilon),
        )
        self.downsample = nn.Sequential(*projection) if stride != 1 or inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, inputs, H, W] to [N, outputs, ⌈H/stride⌉, ⌈W/stride⌉]."""
        y: torch.Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        if self.se_block is not None:
            y = self.se_block(y)
        return y + (x if self.downsample is None else self.downsample(x))


class TorchIResNet(nn.Module):
    """`IResNet` with its defaults; MagFace's with epsilon 2e-5, ElasticFace's squeezes."""

    def __init__(
        self,
        stage_blocks: Sequence[int],
        width: int,
        embedding_size: int,
        image_size: int,
        epsilon: float = 1e-5,
        squeeze: int = 0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=epsilon)
        self.prelu = nn.PReLU(width)
        channels, side = width, image_size
        for stage, count in enumerate(stage_blocks):
            blocks = []
            for number in range(count):
                blocks.append(
                    Block(channels, width << stage, 2 if number == 0 else 1, epsilon, squeeze)
                )
                channels = width << stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            side = -(-side // 2)
        self.stages = len(stage_blocks)
        self.bn2 = nn.BatchNorm2d(channels, eps=epsilon)
        self.fc = nn.Linear(channels * side**2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size, eps=epsilon)
        nn.init.ones_(self.features.weight)
        self.features.weight.requires_grad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeds [N, 3, H, W] as [N, embedding_size]."""
        x = self.prelu(self.bn1(self.conv1(x)))
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        embedding: torch.Tensor = self.features(self.fc(torch.flatten(self.bn2(x), 1)))
        return embedding
