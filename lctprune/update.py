"""The update rule of local critic training: every gradient of one step (Lee, Hsieh, Lee, IEEE TNNLS 2022).

    h_0 = x,   h_i = f_i(stop(h_{i-1}))                                         (1)
    L_i = l(c_i(h_i), y)  for i < N,     L_N = l(h_N, y)                        (3)  per sample
    group i:   gradient of mean_b L_i  through c_i, c_i held fixed              (5, 6)
    critic i:  gradient of mean_b O_i, h_i held fixed                           (7) at m = 1, w = 0
               O_i = (1 - w) ((1 - m) L_i + m |L_i - stop(L_{i+1})|) + w D(o_i, stop(o_{i+1}))

o_i is the output of exit i, and D a distance: where critics distil (w > 0), equation 2, c_i(h_i) close to h_N, down the
chain and in logits.

Group i needs nothing from later groups, and critic i only the next exit's losses, a vector of `batch` numbers, and its
output where it distils. `local_critic_step` is the one step that everything uses. It yields an event after each part,
so that its caller can put optimisers, seeds, clocks or messages to other processes in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lctprune.errors import ConfigError, NetworkError
from lctprune.losses import Distance, Loss, cross_entropy, default_distance, softened_distance
from lctprune.network import LocalCriticNetwork, Part
from lctprune.utils.modules import packed

MATCHING = 0.0  # critics learn from labels and from the next exit's outputs, not from its losses
DISTILL = 0.25  # the middle of training's default ramp, 0:0.5; benchmarks/ablation.py compares objectives


class GroupForward(NamedTuple):
    """A group's output."""

    output: Tensor  # h_i, attached to the group's graph
    boundary: Tensor  # h_i, cut off from the group; what the critic and the next group see


class Exit(NamedTuple):
    """The output of one exit and its losses; attached to its critic's graph, at the last exit to the last group's."""

    output: Tensor  # c_i(h_i), or h_N: [batch, outputs]
    losses: Tensor  # L_i, [batch]

    def detached(self) -> Exit:
        """Return these numbers without a graph."""
        return Exit(self.output.detach(), self.losses.detach())


class Objective(NamedTuple):
    """The objective O_i of the critics in one step."""

    matching: float  # m, 0 to 1
    distill: float = 0.0  # w, 0 to 1
    distance: Distance = softened_distance  # D: `distance(output, next exit's output) -> [batch]`


@dataclass(frozen=True)
class BeforeGroup:
    """Group `index` is about to run."""

    index: int


@dataclass(frozen=True)
class AfterGroup:
    """Group `index` has run, and its exit is about to."""

    index: int
    output: Tensor  # h_i, detached, as the next group takes it


@dataclass(frozen=True)
class AfterExit:
    """Exit `index` has run."""

    index: int
    exit: Exit  # detached


@dataclass(frozen=True)
class Gradient:
    """Group or critic `index` has its gradients."""

    index: int
    part: Literal["group", "critic"]


@dataclass(frozen=True)
class CriticPending:
    """The step is over, but critic `index` still needs the next exit, which is not among the parts."""

    index: int
    exit: Exit  # attached to the critic's graph


StepEvent = BeforeGroup | AfterGroup | AfterExit | Gradient | CriticPending


def local_critic_backward(
    network: LocalCriticNetwork,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss = cross_entropy,
    objective: Literal["paper"] | None = None,
    matching: float | None = None,
    distill: float | None = None,
    distance: Distance | None = None,
    critic_update: bool = True,
) -> list[Tensor]:
    """Accumulate the gradients of one local critic step into `.grad`, in place of `loss.backward()`.

    The gradients are those of equations 5 to 7, all from one forward pass, in which every module runs once. Group i's
    graph is freed before group i + 1 runs, so the activations held at a time are those of one group and at most two
    critics. Without critics this is backpropagation. `train` computes these gradients too, to the bit.

    Args:
        network: network to train; its mode (train or eval) is the caller's.
        x: input of the first group, [batch, ...].
        y: target, [batch, ...], as `loss` takes it.
        loss: loss per sample, `loss(output, target) -> [batch]`: l of equation 3.
        objective: name of the critics' objective: "paper" for equation 7, which is `matching=1, distill=0`.
        matching: weight m of the critics' objective, 0 to 1: 0, the default, is greedy local training, 1 loss matching.
        distill: weight w of the distance in the critics' objective, 0 to 1; by default `DISTILL`, 0.25.
        distance: distance per sample, `distance(output, next exit's output) -> [batch]`; by default softened
            Kullback-Leibler divergence, or mean squared error where `y` is of floating-point numbers.
        critic_update: whether the critics get gradients in this step (the paper's Table 3 skips some).

    Returns:
        The exits' losses per sample, shallowest first: one detached [batch] tensor each.

    Raises:
        ConfigError: `matching` or `distill` is not between 0 and 1, or is given beside `objective`; or critics distil
            and `loss` is the caller's own on floating-point targets, without `distance`.
        NetworkError: `loss` does not give one number per sample, or a group changes its input in place.
    """
    m, w = _weights(objective, matching, distill)
    if distance is None:
        distils = w > 0 and critic_update and len(network.critics) > 0
        distance = default_distance(loss, is_regression=y.is_floating_point(), distils=distils)
    critics_learn = Objective(m, w, distance) if critic_update else None
    step = local_critic_step(network.parts(), x.detach(), y, loss=loss, objective=critics_learn)
    return [event.exit.losses for event in step if isinstance(event, AfterExit)]


def _weights(objective: str | None, matching: float | None, distill: float | None) -> tuple[float, float]:
    """Return m and w of the critics' objective."""
    given = {name: value for name, value in (("matching", matching), ("distill", distill)) if value is not None}
    if objective not in (None, "paper"):
        raise ConfigError(f"objective is {objective!r}; it must be 'paper', or be left out")
    if objective and given:
        raise ConfigError(f"objective is {objective!r}, which sets matching and distill; leave out {', '.join(given)}")
    for name, value in given.items():
        if isinstance(value, str) or not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value!r}; for one step it must be a number between 0 and 1")
    return (1.0, 0.0) if objective else (given.get("matching", MATCHING), given.get("distill", DISTILL))


def local_critic_step(
    parts: Iterable[Part], inputs: Tensor, targets: Tensor, *, loss: Loss, objective: Objective | None
) -> Iterator[StepEvent]:
    """Take one step over consecutive groups, adding gradients to `.grad`; yield before and after each part of it.

    The step goes on when the caller asks for the next event. The caller may change parameters as soon as their
    gradients are there: nothing that follows in the step reads them.

    Args:
        parts: consecutive groups with their critics: a whole network, or one process's part of it.
        inputs: input of the first group, [batch, ...], detached.
        targets: targets, as `loss` takes them.
        loss: loss per sample, `loss(output, target) -> [batch]`.
        objective: the critics' objective; None where critics get no gradients in this step.

    Raises:
        NetworkError: `loss` does not give one number per sample, or a group changes its input in place.
    """
    pending: tuple[int, nn.Module, Exit] | None = None  # the previous critic, and its exit with the critic's graph
    for index, group, critic in parts:
        yield BeforeGroup(index)
        forward = forward_group(group, inputs, index=index)
        inputs = packed(forward.boundary.detach())
        yield AfterGroup(index, inputs)
        exit = run_exit(forward, critic, targets, loss)
        yield AfterExit(index, exit.detached())
        backward_group(forward, exit.losses, keep_critic_graph=objective is not None and critic is not None)
        del forward
        yield Gradient(index, "group")
        if objective is not None and pending is not None:
            backward_critic(*pending[1:], *exit.detached(), objective)
            yield Gradient(pending[0], "critic")
        pending = None if objective is None or critic is None else (index, critic, exit)
        del exit
    if pending is not None:
        yield CriticPending(pending[0], pending[2])


def forward_group(group: nn.Module, inputs: Tensor, *, index: int = 0) -> GroupForward:
    """Equation 1: run group number `index` on `inputs`, which are cut off from the group before."""
    version = inputs._version
    output = group(inputs)
    if inputs._version != version:
        raise NetworkError(f"group {index} changes its input in place; give its first layer inplace=False")
    return GroupForward(output, output.detach())


def run_exit(forward: GroupForward, critic: nn.Module | None, target: Tensor, loss: Loss) -> Exit:
    """Equation 3: compute L_i from the critic's output, or at the last exit from the last group's."""
    if critic is not None and forward.output.requires_grad:  # else the group is frozen: nobody asks for its gradient
        forward.boundary.requires_grad_()
    output = forward.output if critic is None else critic(forward.boundary)
    losses = loss(output, target)
    if (shape := getattr(losses, "shape", None)) != forward.output.shape[:1]:
        raise NetworkError(
            f"the loss gave a {type(losses).__name__ if shape is None else f'tensor of shape {[*shape]}'}; it must "
            f"give one number per sample, [{forward.output.shape[0]}] (in PyTorch: reduction='none')"
        )
    return Exit(output, losses)


def backward_group(forward: GroupForward, losses: Tensor, *, keep_critic_graph: bool) -> None:
    """Equations 5 and 6: add the group's gradient of mean_b L_i, through the critic; free the group's graph."""
    if not forward.output.requires_grad:  # a group without parameters to train
        return
    if not forward.boundary.requires_grad:  # the last group: it has no critic
        torch.autograd.backward(losses.mean())
        return
    (gradient,) = torch.autograd.grad(losses.mean(), forward.boundary, retain_graph=keep_critic_graph)
    torch.autograd.backward(forward.output, gradient)


def backward_critic(
    critic: nn.Module, exit: Exit, next_output: Tensor | None, next_losses: Tensor, objective: Objective
) -> None:
    """Equation 7, generalised by m and w: add the critic's own gradient of mean_b O_i, and free its graph.

    `exit` is attached to the critic's graph. The next exit's numbers are detached; its output is only needed to distil.
    """
    parameters = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    if not parameters:
        return
    m, w, distance = objective
    losses = (1 - m) * exit.losses + m * (exit.losses - next_losses).abs() if m else exit.losses
    if w:
        assert next_output is not None
        losses = (1 - w) * losses + w * distance(exit.output, next_output)
    torch.autograd.backward(losses.mean(), inputs=parameters)
