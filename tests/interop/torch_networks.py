"""The published networks in PyTorch, with the keys of their projects, at any size; written for
these tests.
"""

import torch
from torch import nn

from experiments.benchmark.torch_iresnet import Excite, TorchIResNet
from experiments.benchmark.torch_vit import TorchVit


class IResNet(TorchIResNet):
    """arcface_torch, ElasticFace (squeeze) and MagFace (epsilon 2e-5)."""

    def __init__(self, blocks=(2, 1, 1, 1), width=4, embedding=6, size=32, epsilon=1e-5, squeeze=0):
        super().__init__(blocks, width, embedding, size, epsilon, squeeze)


class IrBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, inner_norm, squeeze):
        super().__init__()
        first = [nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)]
        middle = [nn.BatchNorm2d(outputs)] if inner_norm else []
        last = [
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        excite = [Excite(outputs, squeeze)] if squeeze else []
        self.res_layer = nn.Sequential(*first, *middle, *last, *excite)
        if inputs == outputs:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            projection = (
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
            self.shortcut_layer = nn.Sequential(*projection)

    def forward(self, x):
        return self.shortcut_layer(x) + self.res_layer(x)


class Ir(nn.Module):
    """AdaFace (inner_norm) and CurricularFace."""

    def __init__(
        self, blocks=(2, 1, 1, 1), width=4, embedding=6, size=32, inner_norm=True, squeeze=0
    ):
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        body, channels = [], width
        for stage, count in enumerate(blocks):
            for number in range(count):
                body.append(
                    IrBlock(channels, width << stage, 2 if number == 0 else 1, inner_norm, squeeze)
                )
                channels = width << stage
        self.body = nn.Sequential(*body)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(channels * (size // 16) ** 2, embedding),
            nn.BatchNorm1d(embedding, affine=False),
        )

    def forward(self, x):
        return self.output_layer(self.body(self.input_layer(x)))


def unit(inputs, outputs, kernel=1, stride=1, padding=0, groups=1, activate=True):
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return layers + ([nn.PReLU(outputs)] if activate else [])


class NamedUnit(nn.Module):
    def __init__(self, *arguments, **options):
        super().__init__()
        layers = unit(*arguments, **options)
        for name, layer in zip(("conv", "bn", "prelu")[: len(layers)], layers, strict=True):
            setattr(self, name, layer)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class MobileBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        inner = inputs * expansion
        self.conv = nn.Sequential(
            *unit(inputs, inner),
            *unit(inner, inner, 3, stride, 1, groups=inner),
            *unit(inner, outputs, activate=False),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileFaceNet(nn.Module):
    """MobileFaceNet_Pytorch."""

    def __init__(self, width=8, embedding=6, height=32, image_width=48):
        super().__init__()
        self.conv1 = NamedUnit(3, width, 3, 2, 1)
        self.dw_conv1 = NamedUnit(width, width, 3, 1, 1, groups=width)
        blocks, channels = [], width
        for expansion, factor, count, first in (
            (2, 1, 5, 2),
            (4, 2, 1, 2),
            (2, 2, 6, 1),
            (4, 2, 1, 2),
            (2, 2, 2, 1),
        ):
            for number in range(count):
                blocks.append(
                    MobileBlock(channels, width * factor, first if number == 0 else 1, expansion)
                )
                channels = width * factor
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = NamedUnit(channels, 8 * width)
        self.linear7 = NamedUnit(
            8 * width,
            8 * width,
            (height // 16, image_width // 16),
            groups=8 * width,
            activate=False,
        )
        self.linear1 = NamedUnit(8 * width, embedding, activate=False)

    def forward(self, x):
        x = self.conv2(self.blocks(self.dw_conv1(self.conv1(x))))
        return self.linear1(self.linear7(x)).flatten(1)


class Layers(nn.Module):
    """A module whose layers are called layers.0, layers.1 …, with a shortcut by choice."""

    def __init__(self, *layers, residual=False):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


def mbf_bottleneck(inputs, outputs, inner, stride, residual):
    return Layers(
        Layers(*unit(inputs, inner)),
        Layers(*unit(inner, inner, 3, stride, 1, groups=inner)),
        Layers(*unit(inner, outputs, activate=False)),
        residual=residual,
    )


class Mbf(nn.Module):
    """arcface_torch's MobileFaceNet."""

    def __init__(self, blocks=(1, 1, 2, 1), scale=2, width=8, embedding=6, size=32):
        super().__init__()
        channels = width * scale
        first = Layers(*unit(3, channels, 3, 2, 1))

        def repeat(channels, inner, count):
            return Layers(
                *(mbf_bottleneck(channels, channels, inner, 1, True) for _ in range(count))
            )

        if blocks[0] == 1:
            second = Layers(*unit(channels, channels, 3, 1, 1, groups=width))
        else:
            second = repeat(channels, 2 * width, blocks[0])
        layers = [first, second]
        for factor, strided, inner, count in (
            (1, 2, 2, blocks[1]),
            (2, 4, 4, blocks[2]),
            (2, 8, 4, blocks[3]),
        ):
            layers.append(
                mbf_bottleneck(channels, factor * width * scale, strided * width, 2, False)
            )
            channels = factor * width * scale
            layers.append(repeat(channels, inner * width, count))
        self.layers = nn.ModuleList(layers)
        self.conv_sep = Layers(*unit(channels, 8 * width))
        self.features = Layers(
            Layers(*unit(8 * width, 8 * width, size // 16, groups=8 * width, activate=False)),
            nn.Flatten(),
            nn.Linear(8 * width, embedding, bias=False),
            nn.BatchNorm1d(embedding),
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))


class Vit(TorchVit):
    """arcface_torch's vision transformer."""

    def __init__(self, channels=16, depth=2, embedding=6, size=30):
        super().__init__(channels, depth, embedding, size)


def randomise(network, seed=0):
    """Every weight and running statistic away from its initial value; the network in evaluation
    mode.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like, scale=1.0, shift=0.0):
        return shift + scale * torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(normal(module.running_mean, 0.3))
                module.running_var.copy_(normal(module.running_var, 0.3).exp())
            if (
                isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm)
                and module.weight is not None
            ):
                module.weight.copy_(normal(module.weight, 0.2, 1.0))
                module.bias.copy_(normal(module.bias, 0.2))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_(normal(module.weight, module.weight[0].numel() ** -0.5))
                if module.bias is not None:
                    module.bias.copy_(normal(module.bias, 0.2))
            elif isinstance(module, nn.PReLU):
                module.weight.copy_(normal(module.weight, 0.1, 0.25))
        for parameter in network.parameters(recurse=False):
            parameter.copy_(normal(parameter, 0.5))
    return network.eval()
