"""Costs: FLOPs by hand and against fvcore, parameters, bytes, latency."""

from __future__ import annotations

import itertools
import logging
import time
import warnings
from collections.abc import Callable

import pytest
import torch
import torchvision
from modules import Function
from torch import Tensor, nn

import lctprune as lct
from lctprune.errors import UnknownOperationError
from lctprune.measure.costs import count_known_flops, counting_flops
from lctprune.measure.latency import Latency, _summary
from lctprune.models.build import MODELS
from lctprune.utils.modules import evaluation_mode

# --- FLOPs by hand: 2 x (multiply-adds of one output element) x (output elements); biases left out -------------------


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(7, 5), (7,), 7 * 5),
        (nn.Linear(7, 5, bias=False), (7,), 7 * 5),
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),  # three positions
        (nn.Conv2d(4, 6, 3), (4, 8, 9), 9 * 4 * 6 * 6 * 7),
        (nn.Conv2d(4, 6, 3, padding=1), (4, 8, 9), 9 * 4 * 6 * 8 * 9),
        (nn.Conv2d(4, 6, 3, padding=1, stride=2), (4, 8, 9), 9 * 4 * 6 * 4 * 5),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 8, 9), 9 * (4 // 2) * 6 * 8 * 9),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 8, 9), 9 * 4 * 8 * 9),  # depthwise
        (nn.Conv2d(4, 6, 3, dilation=2), (4, 8, 9), 9 * 4 * 6 * 4 * 5),
        (nn.Conv2d(4, 6, (1, 5), stride=(2, 1), padding=(0, 2)), (4, 8, 9), 5 * 4 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, 1), (4, 1, 1), 4 * 6),
        (nn.Conv1d(4, 6, 3), (4, 10), 3 * 4 * 6 * 8),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 8 * 2 * 3 * 27),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 9 * 4 * 6 * 25),  # one product for each *input* element
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 9 * 2 * 6 * 25),
    ],
)
def test_flops_of_one_layer(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert lct.count_flops(layer, torch.zeros(1, *shape)) == 2 * macs


def attention(x: Tensor) -> Tensor:  # [batch, length, width]
    scores = torch.bmm(x, x.transpose(1, 2)).softmax(-1)
    return torch.bmm(scores, x)


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (attention, 2 * 5 * 5 * 8),
        (lambda x: torch.einsum("bij,bkj->bik", x, x), 5 * 5 * 8),
        (lambda x: x @ x.transpose(1, 2) @ x, 2 * 5 * 5 * 8),
        (lambda x: torch.baddbmm(x, torch.ones(1, 5, 5), x), 5 * 5 * 8),
        (lambda x: torch.mv(x[0], x[0, 0]), 5 * 8),
        (lambda x: torch.dot(x[0, 0], x[0, 1]), 8),
        (lambda x: torch.cdist(x, x[:, :3]), 5 * 3 * 8),
        (lambda x: torch.pdist(x[0]), 5 * 4 // 2 * 8),
    ],
)
def test_flops_of_matrix_products(function: Callable[[Tensor], Tensor], macs: int) -> None:
    assert lct.count_flops(Function(function), torch.zeros(1, 5, 8)) == 2 * macs


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Dropout(),
        nn.Flatten(),
        nn.Upsample(scale_factor=2),
        nn.PReLU(4),
        nn.GLU(1),
        nn.LogSigmoid(),
        nn.ReplicationPad2d(1),
        nn.Identity(),
    ],
)
def test_normalisation_activations_and_pooling_count_as_nothing(layer: nn.Module) -> None:
    assert lct.count_flops(layer, torch.zeros(1, 4, 8, 8)) == 0


def test_a_layer_that_runs_twice_counts_twice() -> None:
    layer = nn.Linear(4, 4)
    assert lct.count_flops(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 4)) == 2 * 2 * 16


def test_the_memory_layout_does_not_matter() -> None:
    network = MODELS["resnet18"](num_outputs=10, in_channels=3, image_size=32)
    expected = lct.count_flops(network, torch.zeros(2, 3, 32, 32))
    last = torch.channels_last
    assert lct.count_flops(network.to(memory_format=last), torch.zeros(2, 3, 32, 32).to(memory_format=last)) == expected


@pytest.mark.parametrize("batch", [1, 2, 17])
def test_the_examples_batch_size_does_not_matter(batch: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    assert lct.count_flops(network, torch.zeros(batch, 3, 8, 8)) == 2 * (27 * 4 * 36 + 288)


def test_counting_in_parts() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(3, 5)
    with counting_flops() as count:
        h = first(torch.zeros(1, 2))
        assert count() == (12, ())
        second(h)
        assert count() == (12 + 30, ())


class Padded(nn.Module):
    """An encoder layer that leaves out padding: its fast path packs the sequences."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.encoder(x, src_key_padding_mask=x[..., 0] == 0)
        return output


@pytest.mark.parametrize(
    ("network", "shape", "macs"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)), (3, 8, 8), 3888 + 288),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (4, 5, 5), 9 * 4 * 6 * 25),
        (nn.LSTM(5, 7, 2, bidirectional=True, batch_first=True), (3, 5), 3 * 2 * 4 * 7 * ((5 + 7) + (14 + 7))),
        (nn.GRU(5, 7, batch_first=True), (3, 5), 3 * 3 * 7 * (5 + 7)),
        (nn.RNN(5, 7, batch_first=True), (3, 5), 3 * 7 * (5 + 7)),
        (Padded(2), (6, 8), 2 * (6 * 8 * 8 * 4 + 2 * 6 * 6 * 8 + 2 * 6 * 8 * 16)),
        (Function(lambda x: nn.functional.one_hot(x.long().clamp(0, 8), 9).float()), (6,), 0),
    ],
    ids=["plain", "transposed", "LSTM", "GRU", "RNN", "padded encoder", "one hot"],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [True, False])
def test_the_figure_is_the_same_in_every_mode(
    network: nn.Module, shape: tuple[int, ...], macs: int, mode: type, training: bool
) -> None:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with mode():
        assert lct.count_flops(network.train(training), torch.rand(2, *shape)) == 2 * macs
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


def test_a_bilinear_layer_counts_as_two_matrix_products() -> None:
    layer, left, right = nn.Bilinear(5, 7, 3), torch.randn(2, 5), torch.randn(2, 7)
    with counting_flops() as count:
        layer(left, right)
        assert count() == (2 * (2 * 3 * 5 * 7 + 2 * 3 * 7), ())
    with counting_flops() as plain:
        products = (left @ layer.weight.transpose(0, 1).flatten(1)).view(2, 3, 7) @ right[:, :, None]
        assert count() == plain()
    torch.testing.assert_close(products[..., 0] + layer.bias, layer(left, right))


def test_a_convolution_over_time_counts_as_any_other() -> None:
    x, weight = torch.randn(6, 2, 4), torch.randn(3, 4, 5)  # [time, batch, channels], [kernel, channels, channels]
    with counting_flops() as count:
        torch.conv_tbc(x, weight, torch.zeros(5))
        assert count() == (2 * 4 * 2 * 5 * 3 * 4, ())


def test_sampling_and_choosing_of_boxes_count_as_nothing() -> None:
    x, boxes = torch.randn(1, 4, 8, 8), torch.tensor([[0.0, 0, 4, 4]])
    with counting_flops() as count:
        torchvision.ops.roi_align(x, [boxes], 2)
        torchvision.ops.nms(boxes, torch.ones(1), 0.5)
        assert count() == (0, ())


class Uncountable(nn.Module):
    """A layer that runs, but not under a dispatch mode, as some of PyTorch's higher-order operations."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise TypeError("no implementation found for 'flex_attention'")
        return x


def test_what_the_counter_cannot_follow_is_missing_and_named() -> None:
    count = count_known_flops(nn.Sequential(nn.Linear(4, 4), Uncountable()), torch.zeros(1, 4))
    assert count == (0, ("no implementation found for 'flex_attention'",))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        count_known_flops(nn.Linear(4, 4), torch.zeros(1, 3))


# --- against fvcore, which counts multiply-adds ----------------------------------------------------------------------


def small_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 50), nn.LayerNorm(50), nn.GELU(), nn.Linear(50, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: MODELS["resnet18"](num_outputs=10, in_channels=3, image_size=32),
    "vgg-lct": lambda: MODELS["vgg-lct"](num_outputs=10, in_channels=3, image_size=32),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(weights=None),
    "squeezenet1_1": lambda: torchvision.models.squeezenet1_1(weights=None),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(weights=None),
    "shufflenet_v2_x0_5": lambda: torchvision.models.shufflenet_v2_x0_5(weights=None),
    "mlp": small_mlp,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_flops_are_twice_fvcores_count(name: str) -> None:
    network, example = NETWORKS[name]().eval(), torch.zeros(1, 3, 32, 32)
    assert lct.count_flops(network, example) == 2 * fvcore_macs(network, example)


def fvcore_macs(network: nn.Module, example: Tensor) -> int:
    """Multiply-adds of convolutions and matrix products; fvcore also counts normalisation and pooling."""
    with warnings.catch_warnings():  # fvcore scripts and traces as it is imported and used
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(network, example).unsupported_ops_warnings(False)
        by_operator = analysis.by_operator()
    return int(sum(by_operator[operator] for operator in ("conv", "linear", "addmm", "matmul", "bmm", "mm")))


# --- what the counter does not know ----------------------------------------------------------------------------------


@torch.library.custom_op("lctprune_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Function(twice), (1, 5)),
        (Function(lambda x: torch.linalg.qr(x).R), (1, 5, 5)),
        (Function(lambda x: torch.fft.fft(x).real), (1, 8)),
    ],
    ids=["custom", "qr", "fft"],
)
def test_an_unknown_operation_is_an_error_and_never_0(network: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(UnknownOperationError, match=r"has no FLOP formula; register one"):
        lct.count_flops(network, torch.zeros(shape))


def test_the_error_names_the_operation() -> None:
    with pytest.raises(UnknownOperationError, match=r"lctprune_tests\.twice"):
        lct.count_flops(Function(twice), torch.zeros(1, 5))


# --- leaving no trace ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_every_module_is_put_back(training: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.Dropout()))
    network.train(training)
    network[1].train(not training)
    network[2][1].train(not training)
    before = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lct.count_flops(network, torch.randn(2, 3, 8, 8))
    assert [module.training for module in network.modules()] == before
    torch.testing.assert_close(dict(network.state_dict()), state, rtol=0, atol=0)


def test_the_mode_is_put_back_after_an_error() -> None:
    network = nn.Sequential(nn.Dropout(), Function(twice)).train()
    with pytest.raises(UnknownOperationError):
        lct.count_flops(network, torch.zeros(1, 5))
    assert all(module.training for module in network.modules())


def test_evaluation_mode_is_evaluation_mode() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())).train()
    with evaluation_mode(network):
        assert not any(module.training for module in network.modules())
    assert all(module.training for module in network.modules())


# --- parameters and bytes --------------------------------------------------------------------------------------------


def test_parameters_count_frozen_ones_and_shared_ones_once() -> None:
    shared = nn.Linear(4, 4)
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2, bias=False))
    network[3].weight.requires_grad_(False)
    assert lct.count_parameters(network) == 20 + 8
    assert lct.count_parameters(nn.ReLU()) == 0


def test_a_parameter_tied_under_two_names_counts_once() -> None:
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    network[1].weight = network[0].weight
    assert lct.count_parameters(network) == 16


def test_size_is_that_of_all_parameters_and_buffers() -> None:
    # 3x3 convolution of float32, batch norm: 4 vectors of float32 and a counter of int64
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert lct.size_bytes(network) == 4 * (108 + 4) + 4 * 4 * 4 + 8
    assert lct.size_bytes(nn.Linear(3, 4).to(torch.bfloat16)) == 2 * 16
    assert lct.size_bytes(nn.Linear(3, 4).double()) == 8 * 16
    tied = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    tied[1].weight = tied[0].weight
    assert lct.size_bytes(tied) == 4 * 15


# --- latency ---------------------------------------------------------------------------------------------------------


def test_networks_are_timed_in_turns() -> None:
    calls: list[str] = []
    example = torch.zeros(2, 3)
    seen: list[Tensor] = []

    def network(name: str) -> Callable[[Tensor], None]:
        def call(x: Tensor) -> None:
            calls.append(name)
            seen.append(x)
            assert torch.is_inference_mode_enabled()

        return call

    results = lct.measure_latency([network("a"), network("b"), network("c")], example, repeats=3, warmup=2)
    assert calls[:6] == ["a", "b", "c"] * 2
    assert calls[6:12] == ["a", "a", "b", "b", "c", "c"]  # short ones twice
    assert [name for name, _ in itertools.groupby(calls)] == ["a", "b", "c"] * (len([*itertools.groupby(calls)]) // 3)
    assert (len([*itertools.groupby(calls)]) // 3 - 2) % 3 == 0  # rounds of 3
    assert all(x is example for x in seen)
    assert len(results) == 3


def test_a_short_call_is_timed_with_its_own_caches() -> None:
    last = ""

    def network(name: str, seconds: float) -> Callable[[Tensor], None]:
        def call(x: Tensor) -> None:
            nonlocal last
            time.sleep(seconds if name != last else 0)
            last = name

        return call

    short, _ = lct.measure_latency([network("a", 0.01), network("b", 0)], torch.zeros(1), repeats=3, warmup=0)
    long, _ = lct.measure_latency([network("a", 0.05), network("b", 0)], torch.zeros(1), repeats=3, warmup=0)
    assert short.low_ms < 8
    assert long.low_ms > 40  # not made twice


def test_latency_is_in_milliseconds_and_in_order() -> None:
    def slow(x: Tensor) -> None:
        time.sleep(0.004)

    def slower(x: Tensor) -> None:
        time.sleep(0.012)

    results = lct.measure_latency([slow, slower, nn.Linear(3, 3)], torch.zeros(1, 3), repeats=9, warmup=1)
    assert all(isinstance(result, Latency) for result in results)
    for result in results:
        assert 0 < result.p5_ms <= result.median_ms <= result.p95_ms
    # sleep never returns early; how late it returns is the machine's affair
    assert results[0].p5_ms >= 4
    assert results[1].p5_ms >= 12


def test_warmup_is_not_timed() -> None:
    waits = itertools.chain([0.3], itertools.repeat(0.0))
    (result,) = lct.measure_latency([lambda x: time.sleep(next(waits))], torch.zeros(1), repeats=4, warmup=1)
    assert result.p95_ms < 200


def test_a_noisy_round_is_repeated_and_the_quietest_counts(caplog: pytest.LogCaptureFixture) -> None:
    waits = itertools.chain([0.001, 0.03, 0.04, 0.03], itertools.repeat(0.001))
    with caplog.at_level(logging.INFO, logger="lctprune.steps"):
        (result,) = lct.measure_latency([lambda x: time.sleep(next(waits))], torch.zeros(1), repeats=4, warmup=0)
    assert next(waits) == 0.001
    assert "in turns, round 2 as they vary" in caplog.text
    assert result.median_ms < 30
    assert result.low_ms <= result.median_ms <= result.high_ms


@pytest.mark.parametrize(("count", "low", "high"), [(50, 18, 33), (101, 41, 61), (3, 1, 3)])
def test_the_interval_of_a_median_is_that_of_order_statistics(count: int, low: int, high: int) -> None:
    latency = _summary([float(value) for value in range(count, 0, -1)])
    assert (latency.low_ms, latency.high_ms) == (low, high)


def test_a_single_repeat() -> None:
    (result,) = lct.measure_latency([nn.Linear(3, 3)], torch.zeros(1, 3), repeats=1, warmup=0)
    assert result.p5_ms == result.median_ms == result.p95_ms > 0
    assert lct.measure_latency([], torch.zeros(1, 3)) == []


@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_layers_with_computed_weights_have_a_count(normed: Callable[[nn.Module], nn.Module]) -> None:
    counted = lct.count_flops(normed(nn.Linear(6, 4)), torch.zeros(1, 6))
    # beside the layer at most a product with a vector, for the largest singular value
    assert 2 * 6 * 4 <= counted <= 2 * 6 * 4 + 2 * (6 * 4 + 6)
