"""Critics: small networks from a group's output to the network's output.

A group's output may be a feature map, [batch, channels, height, width], a sequence, [batch, steps, features], or a
vector, [batch, features].

The critic's shape decides more than anything else how good a sub-network is; `tail` is the best kind measured so far,
`depthwise` its kin for networks of depthwise blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from lctprune.critic_blocks import Permute, TailBlock, normalized_convolution
from lctprune.errors import ConfigError, NetworkError
from lctprune.pooling import POOLS, NormalizedPooling, Pooling

PAPER_CHANNELS = 128  # section IV of the paper: "one convolutional layer with 128 channels"
TAIL_SIDE = 8  # a tail halves the feature map as long as it is at least this wide: 32 -> 4, 56 -> 7
TAIL_FEATURES = 1.5  # pooled features per channel of a tail's last block
TAIL_AREA = 4096  # limit of channels x side of a tail's first block; the wide maps of a ResNet-50 are narrowed to it
POOLED_SIDE = 4  # side of the map that a pooled critic flattens


def make_critic(
    kind: str,
    shape: Sequence[int],
    num_outputs: int,
    *,
    depth: int | None = None,
    width: float = 1.0,
    channels_last: bool | None = None,
    pool: str = "mean",
) -> nn.Module:
    """Make a critic: a small network from a group's output to an estimate of the network's output.

    This is c_i in equation 3 of Lee, Hsieh, Lee 2022; `paper` is the critic of its section IV and Table 2. `linear` is
    pooling and a linear layer, `normalized` that after a normalisation. For a sequence (tokens, time
    steps), `tail` is layer normalisation, pooling and a small perceptron; a step whose features are all zero is
    padding. For a vector there is no pooling, and only `normalized` normalises. `depthwise`, `pooled` and `paper` are
    convolutions, for feature maps alone.

    Args:
        kind: kind of critic, `tail`, `depthwise`, `pooled`, `paper`, `linear` or `normalized`.
        shape: shape of the group's output without the batch: [channels, height, width], [steps, features] or
            [features].
        num_outputs: width of the network's output.
        depth: number of 3x3 convolutions, for `paper` (default 1) and `pooled` (default 1 or 2, by the map's size);
            number of residual blocks at each size of a map, for `tail` and `depthwise` (default 1).
        width: factor on the number of channels, or of hidden features; `linear` and `normalized` have none.
        channels_last: whether the features are the last dimension of `shape`; by default they are the first of a
            feature map and the last of a sequence.
        pool: pooling of sequences: `mean` over the steps, or the `last` step.

    Raises:
        ConfigError: the kind is unknown, or `depth` or `width` does not apply to it or is out of range.
        NetworkError: this kind of critic cannot read an output of the group's shape.
    """
    if kind not in CRITICS:
        raise ConfigError(f"critic {kind!r} is unknown; known: {', '.join(CRITICS)}")
    if pool not in POOLS:
        raise ConfigError(f"critic pool is {pool!r}; it must be one of {', '.join(POOLS)}")
    is_map = len(shape) == 3
    if not is_map and (kind not in SEQUENCE_CRITICS or len(shape) not in (1, 2)):
        wanted = "; use tail or linear, or cut where the network" if kind not in SEQUENCE_CRITICS else "; cut where it"
        raise NetworkError(
            f"a {kind!r} critic needs a feature map of [channels, height, width], the group gives {list(shape)}"
            f"{wanted} has feature maps"
        )
    _check_size(kind, depth, width, is_map=is_map)
    if is_map:
        shape = (shape[2], shape[0], shape[1]) if channels_last else shape
        critic = CRITICS[kind](shape, num_outputs, depth, width)
        return nn.Sequential(Permute([0, 3, 1, 2]), critic) if channels_last else critic
    if len(shape) == 1:
        return VECTOR_CRITICS[kind](shape[0], num_outputs, width)
    if channels_last is False:
        return nn.Sequential(Permute([0, 2, 1]), SEQUENCE_CRITICS[kind](shape[0], num_outputs, pool, width))
    return SEQUENCE_CRITICS[kind](shape[1], num_outputs, pool, width)


WITHOUT_WIDTH = ("linear", "normalized")  # kinds that have no hidden layer


def _check_size(kind: str, depth: int | None, width: float, *, is_map: bool) -> None:
    if depth is not None and depth < 1:
        raise ConfigError(f"critic depth is {depth}; a critic needs at least 1 convolution")
    if depth is not None and (kind in WITHOUT_WIDTH or not is_map):
        raise ConfigError(
            f"critic depth does not apply to {kind!r} here; it is for convolutions of feature maps; leave it out"
        )
    if not 0 < width <= 16:
        raise ConfigError(f"critic width is {width}; it must be greater than 0 and at most 16")
    if kind in WITHOUT_WIDTH and width != 1:
        raise ConfigError(f"critic width does not apply to {kind!r}, which has no hidden layer; leave it out")


def paper_critic(shape: Sequence[int], num_outputs: int, depth: int | None = None, width: float = 1.0) -> nn.Module:
    """Make the paper's critic: `depth` 3x3 convolutions to 128 channels with ReLU (its Table 2), flatten, linear."""
    channels, height, side = shape
    layers: list[nn.Module] = []
    for _ in range(depth or 1):
        layers += [nn.Conv2d(channels, _scaled(PAPER_CHANNELS, width), 3, padding=1), nn.ReLU(inplace=True)]
        channels = _scaled(PAPER_CHANNELS, width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * side, num_outputs))


def pooled_critic(shape: Sequence[int], num_outputs: int, depth: int | None = None, width: float = 1.0) -> nn.Module:
    """Make the paper's critic cheap at any size: convolutions of stride 2, and pooling to 4x4 before the flatten."""
    channels, *sides = shape
    depth = depth or min(2, max(1, _halvings(min(sides), 2 * POOLED_SIDE)))
    layers: list[nn.Module] = []
    for _ in range(depth):
        stride = 2 if min(sides) > POOLED_SIDE else 1
        out_channels = _scaled(PAPER_CHANNELS, width)
        layers += [nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1), nn.ReLU(inplace=True)]
        channels, sides = out_channels, [-(-side // stride) for side in sides]
    pooled = min(sides[0], POOLED_SIDE), min(sides[1], POOLED_SIDE)
    flat = channels * pooled[0] * pooled[1]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), nn.Linear(flat, num_outputs))


def tail_critic(shape: Sequence[int], num_outputs: int, depth: int | None = None, width: float = 1.0) -> nn.Module:
    """Make a thin residual tail: residual blocks, a 1x1 convolution, global pooling and a linear layer.

    There is a stride-2 block for each remaining halving of the map. The first block keeps the group's channels, times
    `width` (fewer where channels x side is above `TAIL_AREA`, as after a bottleneck block); each further one doubles
    them. With a `depth` of more than 1, blocks of stride 1 follow each. The 1x1 convolution has `TAIL_FEATURES` times
    as many channels as the last block. A map that is too small to be halved gets a `normalized_critic`: without a
    block, no batch normalisation stands before the linear layer, and features may be of any size.
    """
    blocks, channels = _tail_blocks(shape, depth, width, depthwise=False)
    if not blocks:
        return normalized_critic(shape, num_outputs)
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_outputs))


def depthwise_critic(shape: Sequence[int], num_outputs: int, depth: int | None = None, width: float = 1.0) -> nn.Module:
    """Make a tail of depthwise blocks that normalises what it reads, for networks of such blocks.

    It is `tail_critic` with depthwise and 1x1 convolutions in place of 3x3 convolutions, after batch normalisation: the
    blocks of MobileNet and its kin end without an activation, and their outputs may be of any size. A map that is too
    small to be halved gets a `normalized_critic`.
    """
    blocks, channels = _tail_blocks(shape, depth, width, depthwise=True)
    if not blocks:
        return normalized_critic(shape, num_outputs)
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_outputs)]
    return nn.Sequential(nn.BatchNorm2d(shape[0]), *blocks, *pooled)


def _tail_blocks(
    shape: Sequence[int], depth: int | None, width: float, *, depthwise: bool
) -> tuple[list[nn.Module], int]:
    """Make all of a tail before the pooling; also return its number of channels there."""
    channels, *sides = shape
    side = min(sides)
    blocks: list[nn.Module] = []
    for index in range(_halvings(side, TAIL_SIDE)):
        out_channels = _scaled(min(channels, TAIL_AREA // side), width) if index == 0 else 2 * channels
        for stride in (2, *[1] * ((depth or 1) - 1)):
            blocks.append(TailBlock(channels, out_channels, stride=stride, depthwise=depthwise))
            channels = out_channels
    if blocks:
        features = _scaled(channels, TAIL_FEATURES)
        blocks += [*normalized_convolution(channels, features, 1), nn.ReLU(inplace=True)]
        channels = features
    return blocks, channels


def linear_critic(shape: Sequence[int], num_outputs: int, depth: int | None = None, width: float = 1.0) -> nn.Module:
    """Make the cheapest critic: global average pooling and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], num_outputs))


def normalized_critic(
    shape: Sequence[int], num_outputs: int, depth: int | None = None, width: float = 1.0
) -> nn.Module:
    """Make the cheapest critic for features of any size: batch normalisation, pooling and a linear layer.

    Batch normalisation also takes away what all samples have in common, along which a linear layer at the rates of new
    networks would diverge.
    """
    return nn.Sequential(nn.BatchNorm2d(shape[0]), *linear_critic(shape, num_outputs).children())


def token_mlp(width_in: int, num_outputs: int, pool: str = "mean", width: float = 1.0) -> nn.Sequential:
    """Make a critic for [batch, time, width_in]: normalisation, pooling, a hidden layer of `width` times the width."""
    return nn.Sequential(NormalizedPooling(width_in, pool), *vector_mlp(width_in, num_outputs, width))


def token_linear(width_in: int, num_outputs: int, pool: str = "mean", width: float = 1.0) -> nn.Sequential:
    """Make the smallest critic for [batch, time, width_in]: pooling and a linear layer."""
    return nn.Sequential(Pooling(pool), nn.Linear(width_in, num_outputs))


def token_normalized(width_in: int, num_outputs: int, pool: str = "mean", width: float = 1.0) -> nn.Sequential:
    """Make the smallest critic for [batch, time, width_in] that normalises: normalisation, pooling, linear layer."""
    return nn.Sequential(NormalizedPooling(width_in, pool), nn.Linear(width_in, num_outputs))


def vector_mlp(width_in: int, num_outputs: int, width: float = 1.0) -> nn.Sequential:
    """Make a critic for [batch, width_in] with one hidden layer of `width` times as many features."""
    hidden = _scaled(width_in, width)
    return nn.Sequential(nn.Linear(width_in, hidden), nn.ReLU(), nn.Linear(hidden, num_outputs))


def vector_linear(width_in: int, num_outputs: int, width: float = 1.0) -> nn.Sequential:
    """Make the smallest critic for [batch, width_in]: a linear layer."""
    return nn.Sequential(nn.Linear(width_in, num_outputs))


def vector_normalized(width_in: int, num_outputs: int, width: float = 1.0) -> nn.Sequential:
    """Make the smallest critic for [batch, width_in] that normalises: layer normalisation and a linear layer."""
    return nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, num_outputs))


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _halvings(side: int, least: int) -> int:
    """Count how often `side` is halved (rounding up) while it is at least `least`."""
    count = 0
    while side >= least:
        side, count = -(-side // 2), count + 1
    return count


CRITICS: dict[str, Callable[[Sequence[int], int, int | None, float], nn.Module]] = {
    "tail": tail_critic,
    "pooled": pooled_critic,
    "paper": paper_critic,
    "linear": linear_critic,
    "depthwise": depthwise_critic,
    "normalized": normalized_critic,
}
SEQUENCE_CRITICS: dict[str, Callable[[int, int, str, float], nn.Module]] = {
    "tail": token_mlp,
    "linear": token_linear,
    "normalized": token_normalized,
}
VECTOR_CRITICS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "tail": vector_mlp,
    "linear": vector_linear,
    "normalized": vector_normalized,
}
