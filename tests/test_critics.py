"""Critic heads: shapes for any feature map, sequence and vector, and their cost by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lctprune as lct
from lctprune.critics import CRITICS, SEQUENCE_CRITICS
from lctprune.errors import ConfigError, NetworkError

SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 28, 31, 33, 57)
EDGES = [(1, 1), (1, 57), (57, 1), (2, 3), (4, 4), (5, 4), (7, 9), (8, 8), (9, 33), (15, 16), (57, 33)]


def check_output(kind: str, shape: tuple[int, int, int], num_outputs: int) -> None:
    critic = lct.make_critic(kind, shape, num_outputs)
    for batch, training in ((3, True), (1, False)):
        critic.train(training)
        output = critic(torch.randn(batch, *shape))
        assert output.shape == (batch, num_outputs)
        assert output.isfinite().all()


def macs(critic: nn.Module, shape: tuple[int, ...]) -> int:
    return lct.count_flops(critic, torch.zeros(1, *shape)) // 2


def convolutions(critic: nn.Module) -> list[nn.Conv2d]:
    return [module for module in critic.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("kind", CRITICS)
def test_every_kind_takes_maps_of_odd_sizes(kind: str, size: tuple[int, int]) -> None:
    check_output(kind, (6, *size), 10)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    kind=st.sampled_from(list(CRITICS)),
    shape=st.tuples(st.sampled_from([1, 2, 3, 8, 13]), st.sampled_from(SIDES), st.sampled_from(SIDES)),
    num_outputs=st.integers(1, 12),
)
def test_every_kind_takes_any_map(kind: str, shape: tuple[int, int, int], num_outputs: int) -> None:
    check_output(kind, shape, num_outputs)


@pytest.mark.parametrize("kind", CRITICS)
def test_a_critic_does_not_change_its_input(kind: str) -> None:
    critic = lct.make_critic(kind, (6, 16, 16), 10).train()
    x = torch.randn(2, 6, 16, 16)
    before = x.clone()
    critic(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", CRITICS)
def test_every_parameter_of_a_critic_gets_a_gradient(kind: str) -> None:
    critic = lct.make_critic(kind, (6, 17, 12), 4).train()
    critic(torch.randn(3, 6, 17, 12)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in critic.parameters())


# --- cost by hand: a 3x3 convolution is 9 x in x out x height x width of its output, a linear layer in x out ---------


def tail_end(channels: int, area: int, num_outputs: int) -> int:
    """Count a 1x1 convolution to half as many channels again, on a map of so many pixels; pooled; linear."""
    features = round(1.5 * channels)
    return channels * features * area + features * num_outputs


def test_macs_of_a_tail() -> None:
    first = 9 * 64 * 64 * 16 * 16 + 9 * 64 * 64 * 16 * 16  # 64 channels kept, 32x32 -> 16x16
    second = 9 * 64 * 128 * 8 * 8 + 9 * 128 * 128 * 8 * 8  # doubled, -> 8x8
    third = 9 * 128 * 256 * 4 * 4 + 9 * 256 * 256 * 4 * 4  # doubled, -> 4x4, which is below 8: no further halving
    assert macs(lct.make_critic("tail", (64, 32, 32), 10), (64, 32, 32)) == first + second + third + tail_end(
        256, 16, 10
    )


def test_macs_of_a_tail_behind_a_wide_map() -> None:
    # channels x side is 512 x 28 > 4096, so the first block narrows to 4096 // 28 = 146 channels
    first = 9 * 512 * 146 * 14 * 14 + 9 * 146 * 146 * 14 * 14
    second = 9 * 146 * 292 * 7 * 7 + 9 * 292 * 292 * 7 * 7
    assert macs(lct.make_critic("tail", (512, 28, 28), 100), (512, 28, 28)) == first + second + tail_end(292, 49, 100)


def test_macs_of_a_tail_behind_a_small_odd_map() -> None:
    block = 9 * 32 * 32 * 5 * 8 * 2  # 9x15 -> 5x8, once: the shorter side counts
    assert macs(lct.make_critic("tail", (32, 9, 15), 10), (32, 9, 15)) == block + tail_end(32, 40, 10)
    assert macs(lct.make_critic("tail", (512, 4, 4), 10), (512, 4, 4)) == 512 * 10


@pytest.mark.parametrize(
    ("width", "channels"), [(0.5, (32, 64, 128)), (2, (128, 256, 512)), (0.3, (19, 38, 76)), (0.001, (1, 2, 4))]
)
def test_macs_of_a_tail_of_another_width(width: float, channels: tuple[int, int, int]) -> None:
    """The width scales the first block; the further ones double it."""
    critic = lct.make_critic("tail", (64, 32, 32), 10, width=width)
    expected, before = 0, 64
    for side, after in zip((16, 8, 4), channels, strict=True):
        expected += 9 * before * after * side * side + 9 * after * after * side * side
        before = after
    assert macs(critic, (64, 32, 32)) == expected + tail_end(before, 16, 10)
    x = torch.randn(2, 64, 32, 32)
    assert critic(x).shape == (2, 10)


def test_macs_of_a_deep_tail() -> None:
    """At each of two sizes one block that halves the map, and two more at that size."""
    first = 9 * 32 * 16 * 8 * 8 + 9 * 16 * 16 * 8 * 8 + 2 * (2 * 9 * 16 * 16 * 8 * 8)
    second = 9 * 16 * 32 * 4 * 4 + 9 * 32 * 32 * 4 * 4 + 2 * (2 * 9 * 32 * 32 * 4 * 4)
    critic = lct.make_critic("tail", (32, 16, 16), 10, depth=3, width=0.5)
    assert macs(critic, (32, 16, 16)) == first + second + tail_end(32, 16, 10)
    assert len(convolutions(critic)) == 2 * 2 * 3 + 1


def test_macs_of_narrow_critics_of_the_paper() -> None:
    assert macs(lct.make_critic("paper", (64, 6, 6), 10, width=0.25), (64, 6, 6)) == (
        9 * 64 * 32 * 36 + 32 * 36 * 10  # 32 channels, not 128
    )
    assert macs(lct.make_critic("pooled", (64, 8, 8), 10, width=0.25), (64, 8, 8)) == (
        9 * 64 * 32 * 16 + 32 * 16 * 10  # 8x8 -> 4x4
    )


@pytest.mark.parametrize(("width", "hidden"), [(1, 24), (0.5, 12), (0.001, 1)])
@pytest.mark.parametrize("shape", [(24,), (5, 24)])
def test_macs_of_perceptrons(shape: tuple[int, ...], width: float, hidden: int) -> None:
    """Of vectors and of sequences, which are pooled before."""
    critic = lct.make_critic("tail", shape, 7, width=width)
    assert macs(critic, shape) == 24 * hidden + hidden * 7


@pytest.mark.parametrize(
    ("shape", "depth", "expected"),
    [
        # 32x32 -> 16x16 -> 8x8, pooled to 4x4
        ((64, 32, 32), None, 9 * 64 * 128 * 256 + 9 * 128 * 128 * 64 + 128 * 16 * 10),
        ((64, 32, 32), 1, 9 * 64 * 128 * 256 + 128 * 16 * 10),
        # 8x8 -> 4x4, no second one
        ((256, 8, 8), None, 9 * 256 * 128 * 16 + 128 * 16 * 10),
        # a second one keeps the 4x4
        ((256, 8, 8), 2, 9 * 256 * 128 * 16 + 9 * 128 * 128 * 16 + 128 * 16 * 10),
        # a map of 2x2 is neither halved nor pooled
        ((16, 2, 2), None, 9 * 16 * 128 * 4 + 128 * 4 * 10),
    ],
)
def test_macs_of_a_pooled_critic(shape: tuple[int, int, int], depth: int | None, expected: int) -> None:
    assert macs(lct.make_critic("pooled", shape, 10, depth=depth), shape) == expected


@pytest.mark.parametrize("depth", [None, 1, 2, 5])
def test_the_papers_critic_has_depth_convolutions_of_128_channels_at_full_size(depth: int | None) -> None:
    critic = lct.make_critic("paper", (64, 12, 10), 10, depth=depth)
    count = depth or 1
    assert [module.out_channels for module in convolutions(critic)] == [128] * count
    expected = 9 * 64 * 128 * 120 + (count - 1) * 9 * 128 * 128 * 120 + 128 * 120 * 10
    assert macs(critic, (64, 12, 10)) == expected


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape"), [("linear", (8, 8, 8)), ("tail", (8, 8)), ("tail", (8,)), ("linear", (8,))], ids=str
)
def test_depth_is_for_convolutions(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=f"depth does not apply to '{kind}' here; it is for convolutions"):
        lct.make_critic(kind, shape, 10, depth=2)


@pytest.mark.parametrize("width", [0, -1, 16.5, float("nan"), float("inf")])
def test_a_width_beyond_what_makes_sense_is_refused(width: float) -> None:
    with pytest.raises(ConfigError, match=r"critic width is .*; it must be greater than 0 and at most 16"):
        lct.make_critic("tail", (8, 8, 8), 10, width=width)


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 8), (8,)])
def test_what_has_no_hidden_layer_has_no_width(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="width does not apply to 'linear', which has no hidden layer"):
        lct.make_critic("linear", shape, 10, width=0.5)


@pytest.mark.parametrize("kind", CRITICS)
@pytest.mark.parametrize("depth", [0, -1])
def test_a_critic_needs_a_convolution(kind: str, depth: int) -> None:
    with pytest.raises(ConfigError, match=f"critic depth is {depth}"):
        lct.make_critic(kind, (8, 8, 8), 10, depth=depth)


def test_an_unknown_kind_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ConfigError, match="'deep' is unknown; known: tail, pooled, paper, linear"):
        lct.make_critic("deep", (8, 8, 8), 10)


@pytest.mark.parametrize("shape", [(), (8, 8, 8, 8)])
@pytest.mark.parametrize("kind", CRITICS)
def test_what_is_neither_map_nor_sequence_nor_vector_is_refused(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(NetworkError, match="needs a feature map"):
        lct.make_critic(kind, shape, 10)


@pytest.mark.parametrize("shape", [(8,), (8, 8)])
@pytest.mark.parametrize("kind", ["pooled", "paper"])
def test_convolutional_critics_refuse_sequences_and_vectors(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(NetworkError, match=rf"{kind!r} critic needs a feature map .*use tail or linear"):
        lct.make_critic(kind, shape, 10)


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(ConfigError, match="critic pool is 'max'; it must be one of mean, last"):
        lct.make_critic("tail", (8, 8), 10, pool="max")


# --- sequences, vectors, and features that come last -----------------------------------------------------------------


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("shape", [(1,), (6,), (1, 6), (7, 6)])
@pytest.mark.parametrize("kind", SEQUENCE_CRITICS)
def test_sequences_and_vectors_get_a_critic(kind: str, shape: tuple[int, ...], pool: str) -> None:
    critic = lct.make_critic(kind, shape, 4, pool=pool)
    x = torch.randn(5, *shape)
    before = x.clone()
    output = critic(x)
    assert output.shape == (5, 4)
    assert torch.equal(x, before)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


@pytest.mark.parametrize("kind", SEQUENCE_CRITICS)
def test_padding_does_not_count(kind: str) -> None:
    critic = lct.make_critic(kind, (7, 6), 4)
    x = torch.randn(2, 5, 6)
    padded = torch.cat([x, torch.zeros(2, 3, 6)], 1)
    torch.testing.assert_close(critic(padded), critic(x))


def test_a_linear_critic_of_a_sequence_pools_as_it_is_told() -> None:
    x = torch.randn(3, 5, 6)
    mean, last = (lct.make_critic("linear", (5, 6), 4, pool=pool) for pool in ("mean", "last"))
    torch.testing.assert_close(mean(x), mean[-1](x.mean(1)))
    torch.testing.assert_close(last(x), last[-1](x[:, -1]))


def test_a_linear_critic_of_a_map_is_the_mean_of_each_channel_and_a_linear_layer() -> None:
    critic = lct.make_critic("linear", (6, 3, 5), 4)
    x = torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(critic(x), critic[-1](x.mean((2, 3))))
    assert macs(critic, (6, 3, 5)) == 6 * 4


@pytest.mark.parametrize("kind", CRITICS)
def test_maps_with_their_features_last_are_read_as_others_are(kind: str) -> None:
    torch.manual_seed(1)
    last = lct.make_critic(kind, (9, 12, 6), 4, channels_last=True).eval()
    torch.manual_seed(1)
    first = lct.make_critic(kind, (6, 9, 12), 4).eval()
    x = torch.randn(2, 6, 9, 12)
    assert torch.equal(last(x.permute(0, 2, 3, 1)), first(x))


@pytest.mark.parametrize("kind", SEQUENCE_CRITICS)
def test_sequences_with_their_features_first_are_read_as_others_are(kind: str) -> None:
    torch.manual_seed(1)
    first = lct.make_critic(kind, (6, 9), 4, channels_last=False)
    torch.manual_seed(1)
    last = lct.make_critic(kind, (9, 6), 4)
    x = torch.randn(2, 9, 6)
    assert torch.equal(first(x.transpose(1, 2)), last(x))


def test_macs_of_a_critic_of_tokens() -> None:
    critic = lct.make_critic("tail", (7, 6), 4)
    assert lct.count_flops(critic, torch.randn(1, 7, 6)) == 2 * (6 * 6 + 6 * 4)
