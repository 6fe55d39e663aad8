"""The update rule, against a slow oracle that knows nothing of lctprune but the equations."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import lctprune as lct
from lctprune.errors import ConfigError, NetworkError

Loss = Callable[[Tensor, Tensor], Tensor]
BATCH, CLASSES = 6, 3
MATCHINGS = (0.0, 0.25, 0.5, 1.0)


# --- the oracle: one graph of the whole step, equations (1), (3), (5), (6), (7) one by one ---------------------------


def oracle(
    groups: Sequence[nn.Module],
    critics: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    per_sample_loss: Loss,
    matching: float,
    distill: float = 0.0,
    is_class: bool = True,
) -> tuple[list[list[Tensor]], list[list[Tensor]], list[Tensor]]:
    """Gradients of each group's and each critic's parameters, and the losses of every exit."""
    losses, outputs = [], []
    h = x
    for i, group in enumerate(groups):
        h = group(h.detach())  # (1)
        outputs.append(critics[i](h) if i < len(critics) else h)
        losses.append(per_sample_loss(outputs[i], y))  # (3)
    group_gradients = [
        _gradients(losses[i].sum() / len(losses[i]), group)  # (5, 6)
        for i, group in enumerate(groups)
    ]
    critic_gradients = []
    for i, critic in enumerate(critics):
        difference = torch.abs(losses[i] - losses[i + 1].detach())  # (7)
        objective = (1 - matching) * losses[i] + matching * difference
        own, wanted = outputs[i], outputs[i + 1].detach()  # (2)
        if is_class:  # softened by a temperature of 4
            own, wanted = (own / 4).softmax(1), (wanted / 4).softmax(1)
            distance = 16 * (wanted * (wanted.log() - own.log())).sum(1)
        else:
            distance = ((own - wanted) ** 2).mean(1)
        objective = (1 - distill) * objective + distill * distance
        critic_gradients.append(_gradients(objective.sum() / len(objective), critic))
    return group_gradients, critic_gradients, [each.detach() for each in losses]


def _gradients(objective: Tensor, module: nn.Module) -> list[Tensor]:
    parameters = list(module.parameters())
    return list(torch.autograd.grad(objective, parameters, retain_graph=True)) if parameters else []


# --- small networks --------------------------------------------------------------------------------------------------


def linear_parts(count: int) -> tuple[list[nn.Module], list[nn.Module], Tensor]:
    """Fully connected groups with batch norm and dropout; critics with batch norm. float64."""
    torch.manual_seed(count)
    widths = [5, 7, 4, 6]
    groups: list[nn.Module] = [
        nn.Sequential(
            nn.Linear(widths[i], widths[i + 1]), nn.BatchNorm1d(widths[i + 1]), nn.ReLU(inplace=True), nn.Dropout(0.3)
        )
        for i in range(count - 1)
    ]
    groups.append(nn.Linear(widths[count - 1], CLASSES))
    critics: list[nn.Module] = [
        nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, CLASSES))
        for width in widths[1:count]
    ]
    return _double(groups), _double(critics), torch.randn(BATCH, widths[0], dtype=torch.double)


def convolutional_parts(count: int) -> tuple[list[nn.Module], list[nn.Module], Tensor]:
    """Convolutional groups with batch norm and spatial dropout; critics with batch norm. float64."""
    torch.manual_seed(10 + count)
    groups: list[nn.Module] = []
    for i in range(count):
        layers: list[nn.Module] = [
            nn.Conv2d(2 + i, 3 + i, 3, padding=1, bias=False),
            nn.BatchNorm2d(3 + i),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.2),
        ]
        if i == count - 1:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3 + i, CLASSES)]
        groups.append(nn.Sequential(*layers))
    critics: list[nn.Module] = [
        nn.Sequential(
            nn.Conv2d(3 + i, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, CLASSES)
        )
        for i in range(count - 1)
    ]
    return _double(groups), _double(critics), torch.randn(BATCH, 2, 5, 5, dtype=torch.double)


def plain_network(count: int = 3) -> lct.LocalCriticNetwork:
    """Fully connected, without anything random or coupled: for tests of which gradient flows where."""
    torch.manual_seed(0)
    groups = [nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(count - 1)]
    critics = [nn.Linear(5, CLASSES) for _ in range(count - 1)]
    return lct.LocalCriticNetwork([*groups, nn.Linear(5, CLASSES)], critics).double()


def plain_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 5, generator=generator, dtype=torch.double)
    return x, torch.randint(CLASSES, (BATCH,), generator=generator)


def _double(modules: list[nn.Module]) -> list[nn.Module]:
    return [module.double() for module in modules]


def gradients_of(modules: Sequence[nn.Module]) -> list[list[Tensor | None]]:
    return [[None if p.grad is None else p.grad.clone() for p in module.parameters()] for module in modules]


def focal_loss(output: Tensor, target: Tensor) -> Tensor:
    """Compute a loss of the user's own: it couples no samples, and is not linear in the cross-entropy."""
    surprise = functional.cross_entropy(output, target, reduction="none")
    return surprise * (1 - torch.exp(-surprise)) ** 2


LOSSES: dict[str, tuple[Loss, Loss, bool]] = {  # the library's, the oracle's, whether targets are class indices
    "cross_entropy": (
        lct.cross_entropy,
        lambda o, t: -o.log_softmax(1)[torch.arange(len(t)), t],
        True,
    ),
    "label_smoothing": (
        functools.partial(lct.cross_entropy, label_smoothing=0.2),
        lambda o, t: -(0.8 * o.log_softmax(1)[torch.arange(len(t)), t] + 0.2 * o.log_softmax(1).mean(1)),
        True,
    ),
    "mean_squared_error": (lct.mean_squared_error, lambda o, t: ((o - t) ** 2).mean(1), False),
    "custom": (focal_loss, focal_loss, True),
}


def check_against_oracle(
    groups: list[nn.Module], critics: list[nn.Module], x: Tensor, loss_name: str, matching: float, distill: float = 0.0
) -> None:
    loss, oracle_loss, is_class = LOSSES[loss_name]
    y = torch.randint(CLASSES, (len(x),)) if is_class else torch.randn(len(x), CLASSES, dtype=torch.double)
    network = lct.LocalCriticNetwork(groups, critics).train()
    oracle_groups, oracle_critics = copy.deepcopy(groups), copy.deepcopy(critics)

    torch.manual_seed(99)
    losses = lct.local_critic_backward(network, x, y, loss=loss, matching=matching, distill=distill)
    torch.manual_seed(99)
    group_gradients, critic_gradients, oracle_losses = oracle(
        oracle_groups, oracle_critics, x, y, oracle_loss, matching, distill, is_class
    )

    exact = {"rtol": 0.0, "atol": 1e-10}
    torch.testing.assert_close(gradients_of(groups), group_gradients, **exact)
    torch.testing.assert_close(gradients_of(critics), critic_gradients, **exact)
    torch.testing.assert_close(losses, oracle_losses, **exact)
    assert [each.requires_grad for each in losses] == [False] * len(groups)
    for module, expected in zip([*groups, *critics], [*oracle_groups, *oracle_critics], strict=True):
        torch.testing.assert_close(dict(module.named_buffers()), dict(expected.named_buffers()), **exact)
        counters = [buffer for name, buffer in module.named_buffers() if name.endswith("num_batches_tracked")]
        assert [int(counter) for counter in counters] == [1] * len(counters)


# --- the library against the oracle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("parts", [linear_parts, convolutional_parts])
@pytest.mark.parametrize("loss_name", LOSSES)
def test_gradients_losses_and_statistics_are_those_of_the_equations(
    parts: Callable[[int], tuple[list[nn.Module], list[nn.Module], Tensor]],
    count: int,
    matching: float,
    loss_name: str,
) -> None:
    check_against_oracle(*parts(count), loss_name, matching)


@pytest.mark.parametrize("distill", [0.3, 1.0])
@pytest.mark.parametrize("loss_name", ["cross_entropy", "mean_squared_error"])
@pytest.mark.parametrize("parts", [linear_parts, convolutional_parts])
def test_critics_that_distil_learn_the_next_exits_output(
    parts: Callable[[int], tuple[list[nn.Module], list[nn.Module], Tensor]], loss_name: str, distill: float
) -> None:
    check_against_oracle(*parts(3), loss_name, 0.25, distill)


@pytest.mark.parametrize(
    ("given", "matching", "distill"),
    [({}, 0.0, 0.25), ({"matching": 1.0}, 1.0, 0.25), ({"distill": 0.5}, 0.0, 0.5), ({"objective": "paper"}, 1.0, 0.0)],
    ids=str,
)
def test_the_defaults_and_the_papers_objective(given: dict[str, Any], matching: float, distill: float) -> None:
    x, y = plain_batch()
    network = plain_network(4)
    lct.local_critic_backward(network, x, y, **given)
    cross_entropy = LOSSES["cross_entropy"][1]
    same = plain_network(4)
    groups, critics, _ = oracle(same.groups, same.critics, x, y, cross_entropy, matching, distill)
    torch.testing.assert_close(gradients_of(network.groups), groups, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients_of(network.critics), critics, rtol=0, atol=1e-10)


@st.composite
def architectures(draw: st.DrawFn) -> tuple[list[nn.Module], list[nn.Module], Tensor]:
    """Random fully connected networks of random widths, depths, activations, batch norm and dropout."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    count = draw(st.integers(1, 4))
    widths = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    activations = st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.Identity])

    def layers(inputs: int, outputs: int) -> list[nn.Module]:
        chosen: list[nn.Module] = [nn.Linear(inputs, outputs, bias=draw(st.booleans()))]
        if draw(st.booleans()):
            chosen.append(nn.BatchNorm1d(outputs))
        chosen.append(draw(activations)())
        if draw(st.booleans()):
            chosen.append(nn.Dropout(0.4))
        return chosen

    groups: list[nn.Module] = []
    critics: list[nn.Module] = []
    for i in range(count):
        is_last = i == count - 1
        outputs = CLASSES if is_last else widths[i + 1]
        body = layers(widths[i], outputs) if draw(st.booleans()) else []
        groups.append(nn.Sequential(*body, nn.Linear(outputs if body else widths[i], outputs)))
        if not is_last:
            hidden = layers(outputs, 4) if draw(st.booleans()) else []
            critics.append(nn.Sequential(*hidden, nn.Linear(4 if hidden else outputs, CLASSES)))
    x = torch.randn(draw(st.integers(2, 7)), widths[0], dtype=torch.double)
    return _double(groups), _double(critics), x


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    parts=architectures(),
    loss_name=st.sampled_from(list(LOSSES)),
    matching=st.floats(0, 1),
    distill=st.just(0.0) | st.floats(0, 1),
)
def test_random_architectures_agree_with_the_equations(
    parts: tuple[list[nn.Module], list[nn.Module], Tensor], loss_name: str, matching: float, distill: float
) -> None:
    check_against_oracle(*parts, loss_name, matching, distill)


@pytest.mark.parametrize("parts", [linear_parts, convolutional_parts])
def test_without_critics_it_is_backpropagation(
    parts: Callable[[int], tuple[list[nn.Module], list[nn.Module], Tensor]],
) -> None:
    groups, _, x = parts(4)
    model = nn.Sequential(*groups)
    same = copy.deepcopy(model)
    y = torch.randint(CLASSES, (BATCH,))
    torch.manual_seed(3)
    losses = lct.local_critic_backward(lct.LocalCriticNetwork([model]), x, y)
    torch.manual_seed(3)
    expected = functional.cross_entropy(same(x), y, reduction="none")
    expected.mean().backward()
    assert len(losses) == 1
    torch.testing.assert_close(losses[0], expected.detach(), rtol=0, atol=0)
    torch.testing.assert_close(gradients_of([model]), gradients_of([same]), rtol=0, atol=0)


# --- which gradient flows where --------------------------------------------------------------------------------------


def test_group_gradients_do_not_depend_on_what_comes_later() -> None:
    x, y = plain_batch()
    network = plain_network(4)
    before = copy.deepcopy(network)
    lct.local_critic_backward(before, x, y)
    with torch.no_grad():
        for module in [network.groups[2], network.groups[3], network.critics[2]]:
            for parameter in module.parameters():
                parameter.mul_(-7)
    lct.local_critic_backward(network, x, y)
    torch.testing.assert_close(gradients_of(network.groups[:2]), gradients_of(before.groups[:2]), rtol=0, atol=0)
    # critic 0 looks at exit 1 only, which did not change either
    torch.testing.assert_close(gradients_of(network.critics[:1]), gradients_of(before.critics[:1]), rtol=0, atol=0)
    assert not torch.equal(network.groups[2][0].weight.grad, before.groups[2][0].weight.grad)
    assert not torch.equal(network.critics[2].weight.grad, before.critics[2].weight.grad)


def test_the_critics_objective_moves_no_group() -> None:
    x, y = plain_batch()
    results = []
    for matching in MATCHINGS:
        network = plain_network()
        lct.local_critic_backward(network, x, y, matching=matching)
        results.append((gradients_of(network.groups), gradients_of(network.critics)))
    for groups, critics in results[1:]:
        torch.testing.assert_close(groups, results[0][0], rtol=0, atol=0)
        assert not torch.equal(critics[0][0], results[0][1][0][0])


def test_the_groups_loss_moves_no_critic() -> None:
    # The critic is a copy of the rest of the network, so L_1 = L_2 to the last bit and |L_1 - L_2| has gradient 0,
    # while the group's own loss, if it leaked into the critic, would have a large one.
    torch.manual_seed(0)
    head = nn.Linear(5, CLASSES)
    network = lct.LocalCriticNetwork([nn.Linear(5, 5), head], [copy.deepcopy(head)]).double()
    x, y = plain_batch()
    first, second = lct.local_critic_backward(network, x, y, objective="paper")
    assert torch.equal(first, second)
    assert network.critics[0].weight.grad.abs().max() == 0
    assert network.critics[0].bias.grad.abs().max() == 0
    assert network.groups[0].weight.grad.abs().max() > 1e-3
    assert network.groups[1].weight.grad.abs().max() > 1e-3


def test_the_critics_gradient_does_not_reach_the_next_exit() -> None:
    # With the paper's objective, group 2 must get the gradient of its own loss, and nothing from |L_1 - L_2|.
    x, y = plain_batch()
    network = plain_network(2)
    lct.local_critic_backward(network, x, y, objective="paper")
    h = network.groups[0](x).detach()
    expected = torch.autograd.grad(
        functional.cross_entropy(network.groups[1](h), y), list(network.groups[1].parameters())
    )
    torch.testing.assert_close(gradients_of(network.groups[1:]), [list(expected)], rtol=0, atol=1e-14)


@pytest.mark.parametrize("matching", [0.0, 1.0])
def test_skipping_the_critics_update_leaves_everything_else_alone(matching: float) -> None:
    x, y = plain_batch()
    network, skipped = plain_network(), plain_network()
    losses = lct.local_critic_backward(network, x, y, matching=matching)
    skipped_losses = lct.local_critic_backward(skipped, x, y, matching=matching, critic_update=False)
    assert all(parameter.grad is None for parameter in skipped.critics.parameters())
    assert all(parameter.grad is not None for parameter in network.critics.parameters())
    torch.testing.assert_close(gradients_of(skipped.groups), gradients_of(network.groups), rtol=0, atol=0)
    torch.testing.assert_close(skipped_losses, losses, rtol=0, atol=0)


def test_gradients_accumulate() -> None:
    x, y = plain_batch()
    network, first, second = plain_network(), plain_network(), plain_network()
    lct.local_critic_backward(first, x, y)
    lct.local_critic_backward(second, -x, y)
    lct.local_critic_backward(network, x, y)
    lct.local_critic_backward(network, -x, y)
    for parameter, one, other in zip(network.parameters(), first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, one.grad + other.grad, rtol=0, atol=1e-14)


def test_the_input_gets_no_gradient_and_is_not_changed() -> None:
    x, y = plain_batch()
    x.requires_grad_()
    before = x.detach().clone()
    lct.local_critic_backward(plain_network(), x, y)
    assert x.grad is None
    assert torch.equal(x.detach(), before)


def test_the_mode_is_the_callers() -> None:
    groups, critics, x = linear_parts(3)
    network = lct.LocalCriticNetwork(groups, critics).eval()
    lct.local_critic_backward(network, x, torch.zeros(BATCH, dtype=torch.long))
    assert not any(module.training for module in network.modules())
    counters = [buffer for name, buffer in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert [int(counter) for counter in counters] == [0] * 4


# --- frozen and missing parameters -----------------------------------------------------------------------------------


def test_frozen_parameters_get_no_gradient() -> None:
    x, y = plain_batch()
    network, free = plain_network(), plain_network()
    frozen = [network.groups[0][0].weight, *network.groups[1].parameters(), *network.critics[0].parameters()]
    frozen.append(network.critics[1].bias)
    for parameter in frozen:
        parameter.requires_grad_(False)
    lct.local_critic_backward(network, x, y)
    lct.local_critic_backward(free, x, y)
    for parameter, expected in zip(network.parameters(), free.parameters(), strict=True):
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, expected.grad)
        else:
            assert parameter.grad is None
    assert all(parameter.requires_grad is False for parameter in frozen)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_group_without_parameters_is_passed_through(position: int) -> None:
    x, y = plain_batch()
    network = plain_network(3)
    if position == 2:  # the output itself
        network.groups[1] = nn.Sequential(nn.Linear(5, CLASSES), nn.Tanh()).double()
        network.critics[1] = nn.Linear(CLASSES, CLASSES).double()
        network.groups[2] = nn.Identity()
    else:
        network.groups[position] = nn.Identity()
    same = copy.deepcopy(network)
    losses = lct.local_critic_backward(network, x, y, objective="paper")
    groups, critics, expected = oracle(same.groups, same.critics, x, y, LOSSES["cross_entropy"][1], matching=1.0)
    torch.testing.assert_close(gradients_of(network.groups), groups, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients_of(network.critics), critics, rtol=0, atol=1e-10)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-10)


# --- memory ----------------------------------------------------------------------------------------------------------


class SavedBytes:
    """Bytes of activations that autograd holds for its backward passes; each storage counts once, parameters not."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        self._left_out = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self._holders: dict[int, int] = {}  # storage -> how many saved tensors are in it
        self._sizes: dict[int, int] = {}
        self.peak = 0

    @property
    def live(self) -> int:
        return sum(self._sizes[storage] for storage, holders in self._holders.items() if holders)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Held(self, tensor), lambda held: held.tensor):
            yield

    def change(self, tensor: Tensor, by: int) -> None:
        storage = tensor.untyped_storage().data_ptr()
        if storage in self._left_out:
            return
        self._holders[storage] = self._holders.get(storage, 0) + by
        self._sizes[storage] = tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, self.live)


class _Held:
    """One saved tensor; autograd drops it when it frees the graph."""

    def __init__(self, account: SavedBytes, tensor: Tensor) -> None:
        self.account, self.tensor = account, tensor.detach()
        account.change(tensor, +1)

    def __del__(self) -> None:
        self.account.change(self.tensor, -1)


def deep_network() -> tuple[lct.LocalCriticNetwork, Tensor, Tensor]:
    """Four groups that keep 12 maps each, with critics that keep next to nothing."""
    torch.manual_seed(0)
    groups: list[nn.Module] = [
        nn.Sequential(*[layer for _ in range(6) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())])
        for _ in range(4)
    ]
    groups[3].extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)])
    critics = [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)) for _ in range(3)]
    return lct.LocalCriticNetwork(groups, critics), torch.randn(BATCH, 4, 16, 16), torch.zeros(BATCH, dtype=torch.long)


def test_a_groups_graph_is_freed_before_the_next_group_runs() -> None:
    network, x, y = deep_network()
    account = SavedBytes(network.parameters())
    map_bytes = x.numel() * x.element_size()
    live: list[int] = []
    for group in network.groups:
        group.register_forward_pre_hook(lambda *_: live.append(account.live))
    with account.recorded():
        lct.local_critic_backward(network, x, y)
    assert len(live) == 4
    assert live[0] == 0
    # only the critic of the group before waits: far less than one map of the 6 that a group keeps
    assert max(live) < map_bytes / 4
    assert account.live == 0
    assert account.peak > 5 * map_bytes  # the account does see a group's maps


def test_peak_activation_memory_is_that_of_the_largest_group() -> None:
    network, x, y = deep_network()
    local, backpropagation = SavedBytes(network.parameters()), SavedBytes(network.parameters())
    with local.recorded():
        lct.local_critic_backward(network, x, y)
    with backpropagation.recorded():
        functional.cross_entropy(network(x), y).backward()
    assert backpropagation.live == 0
    assert local.peak < 0.35 * backpropagation.peak


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", ["matching", "distill"])
@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), float("inf"), "0:1"])
def test_shares_lie_between_0_and_1(share: str, value: float | str) -> None:
    x, y = plain_batch()
    network = plain_network()
    with pytest.raises(ConfigError, match=rf"{share} is .*between 0 and 1"):
        lct.local_critic_backward(network, x, y, **{share: value})
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_papers_objective_is_not_mixed_with_another() -> None:
    x, y = plain_batch()
    for weights in ({"matching": 1.0}, {"distill": 0.0}, {"matching": 0.0, "distill": 0.25}):
        with pytest.raises(ConfigError, match=f"'paper'.*leave out {', '.join(weights)}"):
            lct.local_critic_backward(plain_network(), x, y, objective="paper", **weights)
    with pytest.raises(ConfigError, match="objective is 'greedy'; it must be 'paper'"):
        lct.local_critic_backward(plain_network(), x, y, objective="greedy")  # type: ignore[arg-type]


def test_a_loss_of_ones_own_on_numbers_says_how_far_outputs_are() -> None:
    """As in training: a distance is only taken for granted where the loss leaves no doubt."""
    x, _ = plain_batch()
    y = torch.zeros(BATCH, CLASSES, dtype=torch.double)

    def huber(output: Tensor, target: Tensor) -> Tensor:
        return functional.huber_loss(output, target, reduction="none").mean(1)

    with pytest.raises(ConfigError, match=r"distance=\.\.\., or distill=0"):
        lct.local_critic_backward(plain_network(), x, y, loss=huber)
    for said in ({"distance": huber}, {"distill": 0.0}, {"objective": "paper"}, {"critic_update": False}):
        lct.local_critic_backward(plain_network(), x, y, loss=huber, **said)
    lct.local_critic_backward(plain_network(1), x, y, loss=huber)
    lct.local_critic_backward(plain_network(), x, y, loss=lct.mean_squared_error)


@pytest.mark.parametrize("count", [1, 3])
def test_a_loss_that_is_averaged_over_the_batch_is_refused(count: int) -> None:
    x, y = plain_batch()
    with pytest.raises(NetworkError, match=r"one number per sample.*reduction='none'"):
        lct.local_critic_backward(plain_network(count), x, y, loss=functional.cross_entropy)


def test_a_loss_per_output_is_refused() -> None:
    x, _ = plain_batch()
    y = torch.zeros(BATCH, CLASSES, dtype=torch.double)
    with pytest.raises(NetworkError, match=r"shape \[6, 3\]"):
        lct.local_critic_backward(plain_network(), x, y, loss=lambda output, target: (output - target) ** 2, distill=0)
    with pytest.raises(NetworkError, match="the loss gave a tuple; it must give one number per sample"):
        lct.local_critic_backward(plain_network(), x, y, loss=lambda *_: (y, y), distill=0)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_group_that_changes_its_input_in_place_is_refused(position: int) -> None:
    x, y = plain_batch()
    network = plain_network(3)
    network.groups[position] = nn.Sequential(nn.ReLU(inplace=True), network.groups[position])
    with pytest.raises(NetworkError, match=f"group {position} changes its input in place; .*inplace=False"):
        lct.local_critic_backward(network, x, y)
