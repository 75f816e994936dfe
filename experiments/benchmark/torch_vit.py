"""arcface_torch's vision transformer in plain PyTorch, with its weights' keys."""

import torch
from torch import nn
from torch.nn import functional


def drop_path(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Leaves a branch out of some examples, and scales the others up."""
    if rate == 0.0:
        return x
    kept = torch.rand(len(x), 1, 1, device=x.device) >= rate
    return x * kept / (1.0 - rate)


class Attention(nn.Module):
    """Self-attention by PyTorch's fused function."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens [N, T, C] to [N, T, C]."""
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        projected: torch.Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class Mlp(nn.Module):
    """Dense – ReLU6 – dense."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens [N, T, C] to [N, T, C]."""
        mapped: torch.Tensor = self.fc2(functional.relu6(self.fc1(x)))
        return mapped


class Block(nn.Module):
    """x + attention(LN x), then x + MLP(LN x)."""

    def __init__(self, channels: int, heads: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens [N, T, C] to [N, T, C]."""
        rate = self.rate if self.training else 0.0
        x = x + drop_path(self.attn(self.norm1(x)), rate)
        return x + drop_path(self.mlp(self.norm2(x)), rate)


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, 3, H, W] to [N, T, C]."""
        tokens: torch.Tensor = self.proj(x)
        return tokens.flatten(2).mT


class TorchVit(nn.Module):
    """`VisionTransformer` with its defaults: in training a tenth of the tokens skips the blocks."""

    def __init__(
        self,
        channels: int,
        depth: int,
        embedding_size: int,
        image_size: int,
        patch: int = 9,
        heads: int = 8,
        rate: float = 0.1,
        mask_ratio: float = 0.1,
    ) -> None:
        super().__init__()
        self.tokens = (image_size // patch) ** 2
        self.kept = int(self.tokens * (1 - mask_ratio))
        self.patch_embed = PatchEmbed(channels, patch)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, self.tokens, channels))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, channels))
        rates = [rate * number / max(1, depth - 1) for number in range(depth)]
        self.blocks = nn.ModuleList([Block(channels, heads, each) for each in rates])
        self.norm = nn.LayerNorm(channels)
        self.feature = nn.Sequential(
            nn.Linear(channels * self.tokens, channels, bias=False),
            nn.BatchNorm1d(channels, eps=2e-5),
            nn.Linear(channels, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeds [N, 3, H, W] as [N, embedding_size]."""
        x = self.patch_embed(x) + self.pos_embed
        order = torch.rand(x.shape[:2], device=x.device).argsort(1)[:, :, None]
        order = order.expand(-1, -1, x.shape[2])
        if self.training:
            x = x.gather(1, order[:, : self.kept])
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.training:
            left_out = self.mask_token.expand(len(x), self.tokens - self.kept, -1)
            x = torch.cat([x, left_out.to(x.dtype)], 1).gather(1, order.argsort(1))
        embedding: torch.Tensor = self.feature(x.flatten(1))
        return embedding
