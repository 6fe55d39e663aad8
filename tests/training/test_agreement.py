"""How local gradients agree with backpropagation's: against plain autograd, without a trace, and in a run."""

from __future__ import annotations

import copy
import csv
import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lctprune as lct
from lctprune import reports
from lctprune.training.distributed.pipeline import require_one_process

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
Cli = Callable[..., Any]
SEED = 11
CONFIG = lct.TrainConfig(
    method="local-critic", epochs=2, batch_size=16, precision="fp32", device="cpu", diagnostics=True
)


@pytest.fixture
def batch(data: lct.Data) -> tuple[Tensor, Tensor]:
    return next(data.train.shuffled(12, seed=0))


# --- the numbers -----------------------------------------------------------------------------------------------------


def oracle(network: lct.LocalCriticNetwork, x: Tensor, y: Tensor) -> list[tuple[float, float, float, float]]:
    """Cosine, both norms and gap of each group, from one graph of the whole network in training mode."""
    network = copy.deepcopy(network).train()
    losses, h = [], x
    for index, group in enumerate(network.groups):
        torch.manual_seed(SEED + index)
        h = group(h)
        output = network.critics[index](h) if index < len(network.critics) else h
        losses.append(functional.cross_entropy(output, y, reduction="none"))
    numbers = []
    for group, own in zip(network.groups, losses, strict=True):
        parameters = list(group.parameters())
        local, true = (
            torch.cat([part.flatten() for part in torch.autograd.grad(each.mean(), parameters, retain_graph=True)])
            for each in (own, losses[-1])
        )
        cosine = functional.cosine_similarity(local, true, dim=0)
        gap = sum(abs(a - b) for a, b in zip(own.tolist(), losses[-1].tolist(), strict=True)) / len(y)
        numbers.append((float(cosine), float(local.norm()), float(true.norm()), gap))
    return numbers


def test_it_is_what_plain_autograd_gives(make_network: MakeNetwork, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    network = make_network().double()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.4
    measured = lct.measure_agreement(network, x.double(), y, seed=SEED)
    expected = oracle(network, x.double(), y)
    for actual, numbers in zip(measured, expected, strict=True):
        assert actual == pytest.approx(numbers, rel=1e-9, abs=1e-9)
    assert all(abs(each.cosine) < 0.999 for each in measured[:-1])
    assert measured[-1].cosine == pytest.approx(1, abs=1e-12)
    assert measured[-1].gradient_norm == measured[-1].true_gradient_norm
    assert measured[-1].gap == 0


def test_the_cosine_of_the_last_group_is_1_in_training_precision(
    make_network: MakeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        assert lct.measure_agreement(make_network(), *batch)[-1].cosine == pytest.approx(1, abs=1e-6)


def test_with_the_rest_of_the_network_as_critic_it_is_backpropagation(batch: tuple[Tensor, Tensor]) -> None:
    first, last = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh()), nn.Linear(5, 3)
    network = lct.LocalCriticNetwork([first, last], [copy.deepcopy(last)])
    measured = lct.measure_agreement(network, *batch)
    assert [each.cosine for each in measured] == pytest.approx([1, 1], abs=1e-6)
    assert [each.gap for each in measured] == [0, 0]
    with torch.no_grad():
        network.critics[0].weight.neg_()  # what the first group learns now is the opposite, or nearly so
    assert lct.measure_agreement(network, *batch)[0].cosine < -0.5


def test_dropout_is_the_same_in_both_passes(batch: tuple[Tensor, Tensor]) -> None:
    """With a perfect critic, other masks would be the only difference."""
    first, last = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.Dropout(0.5)), nn.Linear(40, 3)
    network = lct.LocalCriticNetwork([first, last], [last])
    one, other = (lct.measure_agreement(network, *batch, seed=seed) for seed in (0, 1))
    assert one[0].cosine == pytest.approx(1, abs=1e-6)
    assert one[0].gradient_norm != pytest.approx(other[0].gradient_norm, rel=1e-3)


def test_what_is_not_trained_has_no_gradient(make_network: MakeNetwork, batch: tuple[Tensor, Tensor]) -> None:
    network = make_network()
    whole = lct.measure_agreement(network, *batch)
    network.groups[1].requires_grad_(False)
    measured = lct.measure_agreement(network, *batch)
    assert measured[1][1:3] == (0, 0)
    assert math.isnan(measured[1].cosine)
    assert measured[0] == whole[0]
    assert measured[1].gap == whole[1].gap
    network.requires_grad_(False)
    assert [each.gap for each in lct.measure_agreement(network, *batch)] == [each.gap for each in whole]


def test_a_layer_in_two_groups_counts_for_each(batch: tuple[Tensor, Tensor]) -> None:
    layer = nn.Linear(64, 64)
    last = nn.Sequential(nn.ReLU(), layer, nn.Linear(64, 3))
    apart = lct.LocalCriticNetwork([nn.Sequential(nn.Flatten(), layer), copy.deepcopy(last)], [nn.Linear(64, 3)])
    shared = lct.LocalCriticNetwork([apart.groups[0], last], apart.critics)
    one, other = (lct.measure_agreement(network, *batch) for network in (apart, shared))
    assert [each.gradient_norm for each in one] == [each.gradient_norm for each in other]


def test_regression(batch: tuple[Tensor, Tensor]) -> None:
    network = lct.LocalCriticNetwork(
        [nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), nn.Linear(4, 1)], [nn.Linear(4, 1)]
    )
    x, y = batch
    measured = lct.measure_agreement(network, x, y.float(), loss=lct.mean_squared_error)
    losses = [lct.mean_squared_error(output, y.float()).detach() for output in network.exits(x)]
    assert measured[0].gap == pytest.approx(float((losses[0] - losses[1]).abs().mean()), rel=1e-5)


# --- no trace --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad])
def test_everything_is_left_as_it_was(
    context: Callable[[], Any], make_network: MakeNetwork, batch: tuple[Tensor, Tensor]
) -> None:
    network = make_network()
    network.groups[1].eval()
    lct.local_critic_backward(network, *batch)
    network.critics[0].zero_grad(set_to_none=True)
    tensors = [*network.parameters(), *network.buffers()]
    values = [tensor.clone() for tensor in tensors]
    gradients = [parameter.grad for parameter in network.parameters()]
    gradient_values = [None if gradient is None else gradient.clone() for gradient in gradients]
    modes = [module.training for module in network.modules()]
    generator = torch.get_rng_state()
    with context():
        lct.measure_agreement(network, *batch)
    assert all(one is other for one, other in zip([*network.parameters(), *network.buffers()], tensors, strict=True))
    assert all(torch.equal(tensor, value) for tensor, value in zip(tensors, values, strict=True))
    assert all(a.grad is b for a, b in zip(network.parameters(), gradients, strict=True))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(gradients, gradient_values, strict=True))
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_failure_leaves_no_trace_either(make_network: MakeNetwork, batch: tuple[Tensor, Tensor]) -> None:
    network = make_network().eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(lct.NetworkError, match="one number per sample"):
        lct.measure_agreement(network, *batch, loss=functional.cross_entropy)
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


# --- in a run --------------------------------------------------------------------------------------------------------


def test_training_is_the_same_to_the_bit_and_metrics_have_more(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    states, rows = [], []
    for diagnostics in (False, True):
        network = make_network()
        config = dataclasses.replace(CONFIG, diagnostics=diagnostics)
        run = lct.train(network, data, config, run_dir=tmp_path / str(diagnostics))
        states.append(run.read_checkpoint(""))
        rows.append(run.metrics)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
    for plain, examined in zip(*rows, strict=True):
        more = [f"exit{exit}_{name}" for exit in range(3) for name in ("cosine", "gradient_norm", "gap")]
        assert list(examined) == [*(name for name in plain if name != "best"), *more, "best"]
        assert all(examined[name] == plain[name] for name in plain if name != "images_per_s")
    # the last epoch's are those of the trained network, on the first batch that the seed shuffles
    inputs, targets = next(data.train.shuffled(CONFIG.batch_size, seed=CONFIG.seed))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return lct.cross_entropy(output, target, label_smoothing=CONFIG.label_smoothing)

    for exit, agreement in enumerate(lct.measure_agreement(network, inputs, targets, loss=loss)):
        for name in ("cosine", "gradient_norm", "gap"):
            assert float(rows[1][-1][f"exit{exit}_{name}"]) == pytest.approx(getattr(agreement, name), rel=1e-4)


def test_a_cosine_that_is_not_defined_is_an_empty_cell(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    network = make_network()
    network.groups[1].requires_grad_(False)
    run = lct.train(network, data, CONFIG, run_dir=tmp_path)
    for row in run.metrics:
        assert (row["exit1_cosine"], row["exit1_gradient_norm"]) == ("", "0")
        assert float(row["exit0_cosine"]) != 0
    cosines = reports.training_curves(reports.metrics_frame(run), "cosine")
    assert cosines[1].isna().all()
    assert cosines[2].tolist() == [1, 1]


def test_a_resumed_run_has_the_same_numbers(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    whole = lct.train(make_network(), data, CONFIG, run_dir=tmp_path / "whole")
    parts = lct.open_run(make_network(), data, CONFIG, run_dir=tmp_path / "parts")
    for progress in lct.train_steps(make_network(), data, parts):
        if progress.epoch == 2:
            break
    lct.train(make_network(seed=5), data, CONFIG, run_dir=tmp_path / "parts", resume=True)
    for one, other in zip(whole.metrics, parts.metrics, strict=True):
        assert {**one, "images_per_s": ""} == {**other, "images_per_s": ""}


@pytest.mark.parametrize(
    "changes", [{"method": "joint"}, {"method": "backprop"}, {"freeze_main": True}], ids=lambda value: str(value)
)
def test_where_no_group_learns_locally_there_is_nothing_to_examine(changes: dict[str, Any]) -> None:
    option = "`freeze_main`" if "freeze_main" in changes else f"`method={changes['method']}`"
    with pytest.raises(lct.ConfigError, match=f"diagnostics.* with {option} there are none"):
        lct.TrainConfig(diagnostics=True, **changes)


def test_without_critics_there_is_nothing_to_examine(data: lct.Data, tmp_path: Path) -> None:
    network = lct.LocalCriticNetwork([nn.Sequential(nn.Flatten(), nn.Linear(64, 3))])
    with pytest.raises(lct.ConfigError, match="use 2 groups or more"):
        lct.train(network, data, CONFIG, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [("--diagnostics",), ("--method", "joint")], ids=" ".join)
def test_several_processes_are_refused_before_they_start(option: tuple[str, ...], cli: Cli, tmp_path: Path) -> None:
    result = cli("train", "resnet", "--groups", 2, "--processes", 2, "--out", tmp_path / "run", *option)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert f"{' '.join(option)} needs the whole network in one process; leave out --processes" in result.err
    assert not (tmp_path / "run").exists()


def test_one_process_and_plain_training_are_not_refused() -> None:
    require_one_process(CONFIG, 1)
    require_one_process(lct.TrainConfig(), 4)


def test_from_the_command_line_to_the_page(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    arguments = ("--data", image_folder, "--groups", 3, "--critic", "pooled", "--epochs", 2, "--batch-size", 20)
    result = cli("train", "vgg-lct", *arguments, "--threads", 1, "--diagnostics", "--out", tmp_path / "run")
    assert result.code == 0, result.err
    run = lct.Run(tmp_path / "run")
    assert run.config.training.diagnostics is True
    with (run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["exit2_cosine"]) == pytest.approx(1, abs=1e-4)
        assert float(row["exit2_gap"]) == 0
        assert all(-1 <= float(row[f"exit{exit}_cosine"]) < 1 for exit in range(2))
        assert all(float(row[f"exit{exit}_gradient_norm"]) > 0 for exit in range(3))
    metrics = reports.metrics_frame(run)
    figure = reports.training_figure(metrics, quantities=("cosine", "gap"))
    for ax, quantity in zip(figure.axes, ("cosine", "gap"), strict=True):
        drawn = {str(line.get_label()): list(line.get_ydata()) for line in ax.lines}
        names = ("exit 0", "exit 1", "main network")
        assert drawn == {name: [float(row[f"exit{k}_{quantity}"]) for row in rows] for k, name in enumerate(names)}
    assert cli("report", run.path).code == 0
    assert "Agreement with backpropagation" in (run.path / "report.html").read_text()


# --- what it is evidence for: gradients go to zero --------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("matching", "distill"), [((1, 1), 0), ((0, 0.5), 0), ((0, 0), 0.5)], ids=["the paper's", "a ramp", "the default"]
)
def test_local_critic_training_drives_the_main_networks_gradient_to_zero(
    matching: tuple[float, float], distill: float, seed: int
) -> None:
    """Least squares by linear groups and critics, all samples in each step, at a falling rate."""
    torch.manual_seed(seed)
    widths, steps, lr = (6, 6, 6, 3), 400, 0.1
    groups = [nn.Linear(before, after) for before, after in itertools.pairwise(widths)]
    for group in groups:
        nn.init.orthogonal_(group.weight)  # well conditioned, so that few steps do
    network = lct.LocalCriticNetwork(groups, [nn.Linear(6, 3), nn.Linear(6, 3)]).double()
    x = torch.randn(64, 6).double()
    y = x @ torch.randn(6, 3).double() + 0.3 * torch.randn(64, 3).double()  # no weights fit it exactly

    def norms() -> list[float]:
        """Of the main network's true gradient, then of each group's local one."""
        groups = lct.measure_agreement(network, x, y, loss=lct.mean_squared_error)
        return [math.hypot(*(each.true_gradient_norm for each in groups)), *(each.gradient_norm for each in groups)]

    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    history = [norms()]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr / (1 + step / 50)
        optimizer.zero_grad()
        m = matching[0] + (matching[1] - matching[0]) * step / steps
        w = distill * step / steps
        lct.local_critic_backward(network, x, y, loss=lct.mean_squared_error, matching=m, distill=w)
        optimizer.step()
        if step + 1 in (steps // 10, steps):
            history.append(norms())
    before, between, after = history  # the least fall seen with 12 seeds was 28-fold
    assert all(late < early / 20 for early, late in zip(before, after, strict=True)), (before, after)
    assert after[0] < between[0] < before[0]
