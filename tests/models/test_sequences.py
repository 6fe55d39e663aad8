"""Sequence networks: padding has no influence, against PyTorch's own layers; tracing, freezing, autocast."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode

from lctprune import critics
from lctprune.errors import ConfigError
from lctprune.models import sequences
from lctprune.models.sequence_layers import Positions, RecurrentLayer, StepEmbedding, TokenEmbedding, TransformerLayer
from lctprune.pooling import NormalizedPooling, Pooling, pooled, valid_steps

LENGTHS = (5, 0, 7, 1)  # of the sequences in a batch; one of them is nothing but padding
VOCABULARY, FEATURES = 20, 5
BUILDERS = {"lstm": sequences.lstm, "gru": sequences.gru, "transformer": sequences.transformer}
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "lstm": lambda dropout=0.0: RecurrentLayer("lstm", 8, 8, dropout),
    "gru": lambda dropout=0.0: RecurrentLayer("gru", 8, 8, dropout),
    "transformer": lambda dropout=0.0: TransformerLayer(8, 2, 16, dropout),
    "tokens": lambda dropout=0.0: TokenEmbedding(VOCABULARY, 8, dropout, positions=True),
    "steps": lambda dropout=0.0: StepEmbedding(8, 8, dropout, positions=True),
}
CRITICS = {"token_mlp": critics.token_mlp, "token_linear": critics.token_linear}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def steps(lengths: Sequence[int], width: int, time: int | None = None) -> Tensor:
    """Random sequences with padding behind them, [batch, time, width]."""
    time = max(lengths) if time is None else time
    valid = torch.arange(time) < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), time, width).masked_fill(~valid[..., None], 0)


def token_ids(lengths: Sequence[int], time: int | None = None) -> Tensor:
    """Random sequences of ids with zeros behind them, [batch, time]."""
    time = max(lengths) if time is None else time
    valid = torch.arange(time) < torch.tensor(lengths)[:, None]
    return torch.randint(1, VOCABULARY, (len(lengths), time)).masked_fill(~valid, 0)


def inputs_of(layer: str, lengths: Sequence[int]) -> Tensor:
    return token_ids(lengths) if layer == "tokens" else steps(lengths, 8)


def small(name: str, source: str, **settings: int | float) -> nn.Sequential:
    """Build a network of two layers; `source` says what its input is."""
    size = VOCABULARY if source == "vocabulary" else FEATURES
    return BUILDERS[name](num_outputs=3, layers=2, width=16, **{source: size}, **settings)


def network_inputs(source: str, lengths: Sequence[int], time: int | None = None) -> Tensor:
    return token_ids(lengths, time) if source == "vocabulary" else steps(lengths, FEATURES, time)


every_network = pytest.mark.parametrize(
    ("name", "source"), [(name, source) for name in BUILDERS for source in ("vocabulary", "features")]
)


# --- pooling ---------------------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4), width=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_pooling_is_that_of_each_sequence_alone(lengths: list[int], width: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = steps(lengths, width, time=7)
    for row, length, mean, last in zip(x, lengths, Pooling("mean")(x), Pooling("last")(x), strict=True):
        alone = row[:length]
        torch.testing.assert_close(mean, alone.mean(0) if length else torch.zeros(width))
        assert torch.equal(last, alone[-1] if length else torch.zeros(width))


@pytest.mark.parametrize("pool", [Pooling("mean"), Pooling("last"), NormalizedPooling(8, "mean")])
def test_pooling_never_has_a_gradient_that_is_not_a_number(pool: nn.Module) -> None:
    x = steps(LENGTHS, 8).requires_grad_()
    output = pool(x)
    output.square().sum().backward()
    assert torch.equal(output[1], torch.zeros(8))  # nothing but padding
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert torch.equal(x.grad[~valid_steps(x).expand_as(x)], torch.zeros(8 * (4 * 7 - sum(LENGTHS))))


@pytest.mark.parametrize("kind", ["mean", "last"])
def test_normalisation_before_pooling_does_not_make_padding_count(kind: str) -> None:
    pool = NormalizedPooling(8, kind)
    nn.init.normal_(pool.norm.bias)  # what the normalisation makes of padding
    x = steps(LENGTHS, 8)
    for row, length, output in zip(x, LENGTHS, pool(x), strict=True):
        normalised = pool.norm(row[:length])
        expected = pooled(normalised[None], torch.ones(1, length, 1, dtype=torch.bool), kind)[0]
        torch.testing.assert_close(output, expected)


def test_the_last_step_of_a_sequence_with_a_gap_is_the_last_valid_one() -> None:
    x = torch.tensor([[[1.0], [0.0], [3.0], [0.0]]])
    assert Pooling("last")(x).tolist() == [[3.0]]
    assert Pooling("mean")(x).tolist() == [[2.0]]


# --- layers against PyTorch's own ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_recurrent_layer_is_pytorchs_on_packed_sequences(cell: str) -> None:
    layer = RecurrentLayer(cell, 6, 8, dropout=0.0)
    x = steps((5, 7, 1, 3), 6)
    packed = pack_padded_sequence(x, torch.tensor([5, 7, 1, 3]), batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(layer.cell(packed)[0], batch_first=True)
    torch.testing.assert_close(layer(x), expected)


def test_a_transformer_layer_is_pytorchs() -> None:
    ours = TransformerLayer(8, 2, 16, dropout=0.0)
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    attention = theirs.self_attn
    pairs = [
        (ours.norm1, theirs.norm1),
        (ours.norm2, theirs.norm2),
        (ours.out, attention.out_proj),
        (ours.up, theirs.linear1),
        (ours.down, theirs.linear2),
    ]
    for source, target in pairs:
        target.load_state_dict(source.state_dict())
    assert attention.in_proj_weight is not None
    attention.in_proj_weight.data = ours.qkv.weight.data
    attention.in_proj_bias.data = ours.qkv.bias.data
    x = steps((5, 7, 1), 8)
    padding = ~valid_steps(x).squeeze(-1)
    expected = theirs(x, src_key_padding_mask=padding).masked_fill(padding[..., None], 0)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 6, 7])
def test_positions_are_sines_and_cosines_of_the_step(width: int) -> None:
    half = math.ceil(width / 2)
    angles = [[step / 10_000 ** (index / half) for index in range(half)] for step in range(1, 41)]
    waves = [[math.sin(angle) for angle in row] + [math.cos(angle) for angle in row] for row in angles]
    result = Positions(width)(torch.zeros(2, 40, width), torch.ones(2, 40, 1, dtype=torch.bool))
    torch.testing.assert_close(result, torch.tensor(waves)[:, :width].expand(2, 40, width), rtol=1e-4, atol=1e-5)


# --- padding: what every layer does with it --------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_padding_has_no_influence_on_a_layer(name: str) -> None:
    layer = LAYERS[name]()
    x = inputs_of(name, LENGTHS)
    for row, length, output in zip(x, LENGTHS, layer(x), strict=True):
        assert torch.equal(output[length:], torch.zeros(7 - length, 8))
        if length:
            alone = layer(row[None, :length])[0]
            torch.testing.assert_close(output[:length], alone)
            assert valid_steps(alone[None]).all()


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_is_in_training_only_and_leaves_padding_alone(name: str) -> None:
    layer = LAYERS[name](dropout=0.3)
    x = inputs_of(name, LENGTHS)
    padding = torch.arange(7) >= torch.tensor(LENGTHS)[:, None]
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    assert not first[padding].any()
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    layer = LAYERS[name]()
    x = inputs_of(name, LENGTHS)
    x = x if name == "tokens" else x.requires_grad_()
    (layer(x) * torch.randn(8)).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)
    if x.grad is not None:
        assert x.grad.isfinite().all()
        assert not x.grad[torch.arange(7) >= torch.tensor(LENGTHS)[:, None]].any()


@every_network
def test_padding_has_no_influence_on_a_network(name: str, source: str) -> None:
    network = small(name, source).eval()
    lengths = (5, 7, 1)
    x = network_inputs(source, lengths, time=10)
    outputs = network(x)
    for row, length, output in zip(x, lengths, outputs, strict=True):
        torch.testing.assert_close(output, network(row[None, :length])[0], rtol=1e-4, atol=1e-5)


class AttentionMasks(TorchFunctionMode):
    """Notes the masks of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.masks.append((kwargs or {})["attn_mask"])
        return func(*args, **(kwargs or {}))


def test_attention_is_to_valid_steps_and_never_to_nothing() -> None:
    """Whether a softmax over nothing is a number depends on the machine; none must be asked for."""
    with AttentionMasks() as mode:
        TransformerLayer(8, 2, 16, 0.0)(steps(LENGTHS, 8))
    (mask,) = mode.masks
    attended_to = [length or 7 for length in LENGTHS]
    assert torch.equal(mask[:, 0, 0], torch.arange(7) < torch.tensor(attended_to)[:, None])


@every_network
def test_the_order_of_steps_matters(name: str, source: str) -> None:
    network = small(name, source).eval()
    x = network_inputs(source, (6, 6, 6))
    assert ((network(x) - network(x.flip(1))).abs().amax(1) > 1e-4).all()


@every_network
def test_a_network_bears_sequences_of_padding_only(name: str, source: str) -> None:
    network = small(name, source, dropout=0.0)
    x = network_inputs(source, (0, 3, 0), time=4)
    output = network(x)
    torch.testing.assert_close(output[0], network[-1][-1].bias)
    output.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# --- networks and critics --------------------------------------------------------------------------------------------


@every_network
def test_the_parts_of_a_network_have_names(name: str, source: str) -> None:
    network = BUILDERS[name](num_outputs=3, layers=3, **{source: 11})
    assert type(network) is nn.Sequential
    assert [child for child, _ in network.named_children()] == ["embed", "layer1", "layer2", "layer3", "head"]
    x = torch.randint(0, 11, (2, 9)) if source == "vocabulary" else torch.randn(2, 9, 11)
    assert network[0](x).shape == network[:-1](x).shape == (2, 9, 128)
    assert network(x).shape == (2, 3)


def test_an_mlp_is_linear_layers_with_relu() -> None:
    network = sequences.mlp(num_outputs=3, features=7, layers=2, width=16)
    assert [child for child, _ in network.named_children()] == ["layer1", "layer2", "head"]
    x = torch.randn(4, 7)
    expected = x
    weights = [parameter for parameter in network.parameters() if parameter.dim() == 2]
    biases = [parameter for parameter in network.parameters() if parameter.dim() == 1]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        expected = (expected @ weight.T + bias).relu()
    torch.testing.assert_close(network(x), expected @ weights[-1].T + biases[-1])
    assert [weight.shape for weight in weights] == [(16, 7), (16, 16), (3, 16)]


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("critic", CRITICS)
def test_a_critic_judges_each_sequence_alone(critic: str, pool: str) -> None:
    network = CRITICS[critic](8, 3, pool=pool)
    x = steps((5, 7, 1), 8)
    outputs = network(x)
    assert outputs.shape == (3, 3)
    for row, length, output in zip(x, (5, 7, 1), outputs, strict=True):
        torch.testing.assert_close(output, network(row[None, :length])[0])
    assert outputs.isfinite().all()


@pytest.mark.parametrize("critic", [critics.vector_mlp, critics.vector_linear])
def test_a_critic_of_vectors(critic: Callable[[int, int], nn.Sequential]) -> None:
    network = critic(8, 3)
    assert network(torch.randn(5, 8)).shape == (5, 3)
    assert sum(isinstance(module, nn.Linear) for module in network) == (2 if critic is critics.vector_mlp else 1)


lstm = functools.partial(sequences.lstm, num_outputs=3, vocabulary=9)
transformer = functools.partial(sequences.transformer, num_outputs=3, vocabulary=9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (functools.partial(sequences.lstm, num_outputs=3), "vocabulary is None and features is None; give exactly"),
        (functools.partial(transformer, features=4), "vocabulary is 9 and features is 4; give exactly one"),
        (functools.partial(lstm, vocabulary=1), "vocabulary is 1; it must be at least 2"),
        (functools.partial(sequences.gru, num_outputs=3, features=0), "features is 0; it must be at least 1"),
        (functools.partial(lstm, layers=0), "layers is 0; it must be at least 1"),
        (functools.partial(lstm, width=0), "width is 0; it must be at least 1"),
        (functools.partial(lstm, num_outputs=0), "num_outputs is 0; it must be at least 1"),
        (functools.partial(lstm, dropout=1.0), r"dropout is 1.0; it must be at least 0 and less than 1"),
        (functools.partial(transformer, dropout=-0.1), r"dropout is -0.1; it must"),
        (functools.partial(lstm, dropout=math.nan), r"dropout is nan; it must"),
        (functools.partial(transformer, width=30), "width is 30, not a multiple of 4 heads; change one of them"),
        (functools.partial(transformer, heads=0), "heads is 0; it must be at least 1"),
        (functools.partial(sequences.mlp, num_outputs=3, features=2, layers=0), "layers is 0"),
        (functools.partial(critics.token_linear, 8, 3, pool="max"), "pool is 'max'; it must be one of mean, last"),
        (functools.partial(RecurrentLayer, "rnn", 8, 8, 0.0), "cell is 'rnn'; it must be one of lstm, gru"),
    ],
)
def test_a_setting_that_cannot_be_used(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


# --- tracing, freezing, autocast -------------------------------------------------------------------------------------


def behind(graph: fx.Graph, name: str) -> set[fx.Node]:
    """List what is still needed after the last node of a module."""
    nodes = [node for node in graph.nodes if node.op != "output"]
    inside = [name in (path.split("@")[0] for path in node.meta.get("nn_module_stack", {})) for node in nodes]
    end = len(nodes) - inside[::-1].index(True)
    return {node for node in nodes[:end] if any(user not in nodes[:end] for user in node.users)}


@every_network
def test_one_tensor_is_alive_between_layers(name: str, source: str) -> None:
    network = small(name, source)
    graphs = [fx.Tracer().trace(network.train(mode)) for mode in (True, False)]
    assert str(graphs[0]) == str(graphs[1])
    for child, _ in network.named_children():
        assert len(behind(graphs[0], child)) == 1, child
    traced = fx.GraphModule(network, graphs[0])
    x = network_inputs(source, LENGTHS)
    torch.testing.assert_close(traced(x), network(x))


@pytest.mark.parametrize("critic", CRITICS)
def test_critics_can_be_traced(critic: str) -> None:
    network = CRITICS[critic](8, 3)
    x = steps(LENGTHS, 8)
    torch.testing.assert_close(fx.symbolic_trace(network)(x), network(x))


def frozen(network: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    with torch.no_grad():
        traced = torch.jit.trace(network.eval(), example, check_trace=False)
    return torch.jit.freeze(traced)


def same(scripted: torch.jit.ScriptModule, network: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(scripted(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("example", [(3, 7), (1, 1)], ids=str)  # batch and time
@every_network
def test_a_frozen_network_takes_other_batches_and_lengths(name: str, source: str, example: tuple[int, int]) -> None:
    network = small(name, source)
    batch, time = example
    traced = fx.GraphModule(network, fx.Tracer().trace(network))
    scripted = frozen(traced, network_inputs(source, [time] * batch))
    for batch in (1, 3, 8):
        for time in (1, 2, 17, 40):
            lengths = [max(0, time - 5 * row) for row in range(batch)]
            same(scripted, traced, network_inputs(source, lengths, time))
            same(scripted, traced, network_inputs(source, [0] * batch, time))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("critic", CRITICS)
def test_a_frozen_critic_takes_other_batches_and_lengths(critic: str, pool: str) -> None:
    network = CRITICS[critic](8, 3, pool=pool)
    scripted = frozen(network, steps((4, 2), 8))
    for lengths in ((1,), (0,), (40, 17, 0), (2,) * 8):
        same(scripted, network, steps(lengths, 8))


@every_network
def test_a_network_trains_and_runs_under_autocast(name: str, source: str) -> None:
    if name == "lstm" and "AVX512" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("oneDNN has no LSTM in bf16 for this processor")
    network = small(name, source, dropout=0.0)
    x = network_inputs(source, LENGTHS)
    expected = network(x)
    for mode in (False, True):
        network.train(mode)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(x)
        torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.05)
    output.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
