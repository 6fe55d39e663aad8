"""FLOPs of fused recurrent layers and attention, against the same computed by plain matrix products."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from lctprune.measure import flop_formulas
from lctprune.measure.flop_formulas import FORMULAS

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1}
SIZES = [(1, 1, 1, 1), (1, 7, 5, 4), (3, 2, 6, 8), (2, 5, 8, 3)]  # batch, time, input, hidden


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def counted(function: Callable[[], object], *, training: bool = False) -> tuple[int, set[str]]:
    """FLOPs, and the operations that had any."""
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops(), {str(name) for name in counter.get_flop_counts().get("Global", {})}


# --- recurrent layers ------------------------------------------------------------------------------------------------


def unrolled(network: nn.RNNBase, x: Tensor) -> Tensor:
    """A recurrent network by hand, cell by cell: [batch, time, input] -> [batch, time, directions * hidden]."""
    directions = 2 if network.bidirectional else 1
    weights = list(network.parameters())
    per_direction = len(weights) // (network.num_layers * directions)
    for layer in range(network.num_layers):
        outputs = []
        for direction in range(directions):
            first = (layer * directions + direction) * per_direction
            steps = x.flip(1) if direction else x
            output = torch.stack(cells(network, weights[first : first + per_direction], steps), 1)
            outputs.append(output.flip(1) if direction else output)
        x = torch.cat(outputs, -1)
    return x


def cells(network: nn.RNNBase, weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """One layer in one direction; equations of nn.LSTM and nn.GRU."""
    input_weight, hidden_weight, *biases = weights
    input_bias, hidden_bias = biases or (None, None)
    state = memory = x.new_zeros(len(x), network.hidden_size)
    outputs = []
    for step in x.unbind(1):
        from_input = functional.linear(step, input_weight, input_bias).chunk(GATES[network.mode], -1)
        from_state = functional.linear(state, hidden_weight, hidden_bias).chunk(GATES[network.mode], -1)
        both = [left + right for left, right in zip(from_input, from_state, strict=True)]
        if network.mode == "LSTM":
            memory = both[1].sigmoid() * memory + both[0].sigmoid() * both[2].tanh()
            state = both[3].sigmoid() * memory.tanh()
        elif network.mode == "GRU":
            update = both[1].sigmoid()
            state = (1 - update) * (from_input[2] + both[0].sigmoid() * from_state[2]).tanh() + update * state
        else:
            state = both[0].tanh()
        outputs.append(state)
    return outputs


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (3, False), (2, True)])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_counts_as_its_cells_do(
    kind: type[nn.LSTM | nn.GRU | nn.RNN], layers: int, bidirectional: bool, bias: bool, batch_first: bool
) -> None:
    for batch, time, features, hidden in SIZES:
        network = kind(features, hidden, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
        x = torch.randn(batch, time, features)
        with torch.no_grad():
            fused = network(x if batch_first else x.transpose(0, 1))[0]
            torch.testing.assert_close(fused if batch_first else fused.transpose(0, 1), unrolled(network, x))
        flops, operations = counted(lambda: network(x if batch_first else x.transpose(0, 1)))  # noqa: B023
        assert flops == counted(lambda: unrolled(network, x))[0]  # noqa: B023
        if kind is nn.LSTM and torch.backends.mkldnn.is_available():
            assert operations == {"aten.mkldnn_rnn_layer"}


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_a_step_by_hand(kind: type[nn.LSTM | nn.GRU], gates: int) -> None:
    flops, _ = counted(lambda: kind(5, 7, batch_first=True)(torch.zeros(2, 3, 5)))
    assert flops == 2 * (2 * 3) * gates * 7 * (5 + 7)


@pytest.mark.parametrize("bias", [False, True])
def test_training_an_lstm_counts_as_training_its_cells(bias: bool) -> None:
    network = nn.LSTM(5, 7, 2, bias=bias, batch_first=True)
    x = torch.randn(3, 4, 5, requires_grad=True)
    state = torch.zeros(2, 3, 7, requires_grad=True)
    forward, _ = counted(lambda: network(x, (state, state)))
    assert counted(lambda: network(x, (state, state))[0].sum().backward(), training=True)[0] == 3 * forward
    by_hand, _ = counted(lambda: unrolled(network, x).sum().backward(), training=True)
    # the first state of a layer by hand is a constant: no gradient for it is computed
    assert by_hand == 3 * forward - 2 * network.num_layers * 3 * 4 * 7 * 7


@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [(1, False, True), (3, True, True), (2, False, False)])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_of_gpus_count_as_their_cells_do(
    kind: type[nn.LSTM | nn.GRU | nn.RNN], layers: int, bidirectional: bool, bias: bool
) -> None:
    for batch, time, features, hidden in SIZES:
        network = kind(features, hidden, layers, bias=bias, bidirectional=bidirectional)
        x = torch.randn(batch, time, features)
        expected, _ = counted(lambda: unrolled(network, x))  # noqa: B023
        weights = [weight.shape for weight in network.parameters()]
        arguments = (0, None, (layers, batch, hidden), None, 2, hidden, 0, layers, True, 0.0, False, bidirectional)
        for shape in [(batch, time, features), (time, batch, features), (batch * time, features)]:  # the last: packed
            assert flop_formulas.cudnn_rnn_flops(shape, weights, *arguments, [], None, out_shape=None) == expected
            assert flop_formulas.mps_lstm_flops(shape, [], weights, bias, layers, out_shape=None) == expected


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projected_lstm_of_a_gpu_counts_as_on_the_cpu() -> None:
    network = nn.LSTM(5, 7, 2, proj_size=3)
    weights = [weight.shape for weight in network.parameters()]
    flops, _ = counted(lambda: network(torch.zeros(4, 2, 5)))
    assert flop_formulas.cudnn_rnn_flops((4, 2, 5), weights) == flops


# --- attention -------------------------------------------------------------------------------------------------------


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("batch", "heads", "queries", "keys", "size"), [(1, 1, 1, 1, 1), (2, 3, 5, 5, 4), (2, 4, 3, 7, 8)]
)
def test_fused_attention_counts_as_matrix_products(
    batch: int, heads: int, queries: int, keys: int, size: int, masked: bool
) -> None:
    query, key, value = (torch.randn(batch, heads, length, size) for length in (queries, keys, keys))
    mask = torch.ones(batch, 1, 1, keys, dtype=torch.bool) if masked else None
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        flops, operations = counted(lambda: functional.scaled_dot_product_attention(query, key, value, mask))
    assert operations == {"aten._scaled_dot_product_flash_attention_for_cpu"}
    assert flops == counted(lambda: plain_attention(query, key, value))[0]
    assert flops == 2 * 2 * batch * heads * queries * keys * size
    shapes = query.shape, key.shape, value.shape
    for name in FORMULAS:
        if "attention" in name and "backward" not in name and "multi_head" not in name:
            assert FORMULAS[name](*shapes, None, 0.0, out_shape=None) == flops


def test_training_fused_attention_counts_one_product_more_than_plain() -> None:
    query, key, value = (torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        fused, operations = counted(
            lambda: functional.scaled_dot_product_attention(query, key, value).sum().backward(), training=True
        )
    plain, _ = counted(lambda: plain_attention(query, key, value).sum().backward(), training=True)
    assert operations == {name for name in operations if "flash_attention_for_cpu" in name}
    assert len(operations) == 2
    assert fused == plain + 2 * 2 * 3 * 5 * 5 * 4  # the scores, which the fused one computes again


def plain_multi_head(attention: nn.MultiheadAttention, query: Tensor, key: Tensor) -> Tensor:
    """Attention from `query` to `key`, both [batch, length, width]."""
    assert attention.in_proj_weight is not None
    weights = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3)
    projected = [
        functional.linear(x, weight, bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((query, key, key), weights, biases, strict=True)
    ]
    return attention.out_proj(plain_attention(*projected).transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(("batch", "length", "width", "heads"), [(1, 1, 4, 2), (3, 5, 8, 2), (2, 7, 12, 4)])
def test_multi_head_attention_counts_as_linear_layers_and_attention(
    batch: int, length: int, width: int, heads: int, need_weights: bool
) -> None:
    attention = nn.MultiheadAttention(width, heads, batch_first=True).eval()
    x = torch.randn(batch, length, width)
    flops, operations = counted(lambda: attention(x, x, x, need_weights=need_weights))
    assert operations == {"aten._native_multi_head_attention"}
    assert flops == counted(lambda: plain_multi_head(attention, x, x))[0]
    with torch.no_grad():
        torch.testing.assert_close(attention(x, x, x)[0], plain_multi_head(attention, x, x))


def test_multi_head_attention_between_two_sequences() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    query, key = torch.randn(3, 5, 8), torch.randn(3, 9, 8)
    expected, _ = counted(lambda: plain_multi_head(attention, query, key))
    assert flop_formulas.multi_head_attention_flops(query.shape, key.shape, key.shape, 8, 2) == expected


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(
    ("batch", "length", "width", "heads", "hidden"), [(1, 1, 4, 2, 3), (3, 5, 8, 2, 20), (2, 7, 12, 4, 5)]
)
def test_an_encoder_layer_counts_as_linear_layers_and_attention(
    batch: int, length: int, width: int, heads: int, hidden: int, activation: str, norm_first: bool
) -> None:
    layer = nn.TransformerEncoderLayer(
        width, heads, hidden, activation=activation, batch_first=True, norm_first=norm_first
    ).eval()
    x = torch.randn(batch, length, width)
    flops, operations = counted(lambda: layer(x))
    assert operations == {"aten._transformer_encoder_layer_fwd"}

    def plain() -> Tensor:
        return layer.linear2(layer.linear1(plain_multi_head(layer.self_attn, x, x)))  # type: ignore[no-any-return]

    assert flops == counted(plain)[0]
    slow, _ = counted(lambda: layer(x.requires_grad_()), training=True)  # no fast path where gradients are wanted
    assert flops == slow


# --- registering -----------------------------------------------------------------------------------------------------


def test_importing_again_changes_nothing() -> None:
    before = dict(flop_registry)
    importlib.reload(flop_formulas)
    assert flop_registry == before


def test_every_operation_of_this_pytorch_has_its_formula() -> None:
    known = [name for name in FORMULAS if hasattr(torch.ops.aten, name)]
    assert len(known) >= 8
    assert all(getattr(torch.ops.aten, name) in flop_registry for name in known)


def test_the_order_of_arguments_is_that_of_the_operations() -> None:
    """Formulas that cannot run here read their arguments by position."""
    expected = {
        "_cudnn_rnn": ["input", "weight"],
        "miopen_rnn": ["input", "weight"],
        "_lstm_mps": ["input", "hx", "params"],
        "_scaled_dot_product_fused_attention_overrideable": ["query", "key", "value"],
        "_scaled_dot_product_fused_attention_overrideable_backward": ["grad_out", "query", "key", "value"],
        "_scaled_dot_product_attention_math_for_mps": ["query", "key", "value"],
    }
    for name, arguments in expected.items():
        if hasattr(torch.ops.aten, name):
            schema = getattr(torch.ops.aten, name).default._schema
            assert [argument.name for argument in itertools.islice(schema.arguments, len(arguments))] == arguments
