"""One exit with fewer channels: a candidate like any other, which comes back from its directory."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import digests, same
from torch import nn

import lctprune as lct
from lctprune.measure.selection import Limits
from lctprune.measure.units import limit_text
from lctprune.workflows.members import member_of, members_of
from lctprune.workflows.narrowing import begin_narrowing
from lctprune.workflows.narrowing_targets import narrowest

TableRun = Callable[..., lct.Run]
Cli = Callable[..., Any]


def flops(network: torch.nn.Module, run: lct.Run) -> int:
    return lct.count_flops(network, run.load_data().example)


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_a_narrowed_exit_is_one_more_candidate(trained: lct.Run, cli: Cli, tmp_path: Path) -> None:
    before, whole = digests(trained), flops(lct.load_network(trained), trained)
    document = cli("narrow", trained.path, "--keep", "60%", "--threads", 1, "--json").document
    assert before.items() <= digests(trained).items()
    (record,) = [each for each in document["candidates"] if each["origin"]]
    assert record["origin"] == "main network, narrowed to 60% of its FLOPs"
    assert 0.54 * whole < record["flops"] <= 0.6 * whole
    member = member_of(trained, record["exit"])
    network = lct.load_network(member.run)
    assert flops(network, trained) == record["flops"]
    (pruned,) = json.loads((member.run.path / "config.json").read_text())["network"]["pruned"]
    state, original = network.state_dict(), lct.load_network(trained).state_dict()
    assert sum(state[name].numel() for name in state) < sum(each.numel() for each in original.values())
    for name, entry in pruned.items():
        for kept in entry["kept"]:
            for tensor in kept["tensors"]:
                assert state[f"{name}.{tensor}"].shape[kept["dim"]] < kept["of"]
    # chosen and exported as any other
    exported = cli("export", trained.path, "--exit", record["exit"], "--out", tmp_path / "out", "--json").document
    x = next(trained.load_data().test.batches(4))[0]
    torch.testing.assert_close(torch.jit.load(exported["model"])(x), network(x))
    limit = record["flops"]
    chosen = cli("select", trained.path, "--budget-flops", limit, "--json", "--out", tmp_path / "s").document[
        "selected"
    ]
    fitting = [each for each in document["candidates"] if each["flops"] <= limit]
    assert chosen["accuracy"] == max(each["accuracy"] for each in fitting)


def test_budgets_between_two_exits_are_filled(wide: lct.Run) -> None:
    data, network = wide.load_data(), lct.load_network(wide)
    first, main = (flops(network.subnetwork(exit), wide) for exit in (0, len(network.critics)))
    for exit, part in ((None, 0.7), (1, 0.3)):
        own = flops(network.subnetwork(len(network.critics) if exit is None else exit), wide)
        limit = first + part * (own - first)
        session = begin_narrowing(wide, exit, budget=lct.Budget(flops=limit), data=data, importance="magnitude")
        assert 0.9 * limit <= flops(session.network, wide) <= limit
    assert main > limit
    session = begin_narrowing(wide, budget=lct.Budget(parameters="60%"), data=data)
    assert 0.54 <= lct.count_parameters(session.network) / lct.count_parameters(network.subnetwork(2)) <= 0.6


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> lct.Run:
    data = lct.load_data(lct.DataConfig(name=str(image_folder), image_size=8))
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 16}, groups=3, num_outputs=3, image_size=8)
    path = tmp_path_factory.mktemp("wide") / "run"
    return lct.train(lct.build_network(recipe), data, lct.TrainConfig(epochs=1, batch_size=18), run_dir=path)


def test_resumed_is_uninterrupted(trained: lct.Run) -> None:
    whole = lct.narrow(trained, 1, keep=0.7, epochs=2)
    contents = (whole.path / "checkpoint.safetensors").read_bytes()
    for stop_after in (0, 5):  # steps: before the first epoch, and after it
        for path in whole.path.iterdir():
            path.unlink()
        steps = begin_narrowing(trained, 1, keep=0.7, epochs=2).steps()
        for _ in range(stop_after):
            next(steps)
        steps.close()
        resumed = lct.narrow(trained, 1, keep=0.7, resume=True, epochs=2)
        assert (resumed.path / "checkpoint.safetensors").read_bytes() == contents
    with pytest.raises(lct.RunError, match="epochs was 2, is 3"):
        lct.narrow(trained, 1, keep=0.7, resume=True, epochs=3)


def test_a_narrowed_exit_is_narrowed_and_fine_tuned_again(trained: lct.Run) -> None:
    first = lct.narrow(trained, 1, keep=0.7)
    number = members_of(trained)[-1].number
    second = lct.narrow(trained, number, keep=0.7)
    assert flops(lct.load_network(second), trained) <= 0.7 * flops(lct.load_network(first), trained)
    tuned = lct.finetune(trained, number + 1)
    networks = [lct.load_network(each) for each in (second, tuned)]
    assert flops(networks[0], trained) == flops(networks[1], trained)
    assert not same(networks[0].state_dict(), networks[1].state_dict())
    text = f"{member_of(trained, 1).name}, narrowed to 70% of its FLOPs, narrowed to 70% of its FLOPs, fine-tuned"
    assert member_of(trained, number + 2).origin == text


def test_of_two_criteria_counts_that_whose_mild_cut_leaves_the_lower_loss(wide: lct.Run, tmp_path: Path) -> None:
    data, settings = wide.load_data(), wide.config.training

    def narrowed(criterion: Any, keep: float) -> tuple[lct.LocalCriticNetwork, Any]:
        run = lct.Run(shutil.copytree(wide.path, tmp_path / f"{criterion}{keep}"))
        network = begin_narrowing(run, keep=keep, data=data, importance=criterion).network
        assert network.recipe is not None
        (record,) = network.recipe.pruned or ()
        return network, record

    damages = {}
    for criterion in ("magnitude", "taylor"):
        network, _ = narrowed(criterion, 0.6)
        assert network.notes == ()
        for module in network.modules():
            module.training = isinstance(module, nn.BatchNorm2d)
        with torch.no_grad():
            batches = itertools.islice(data.train.shuffled(settings.batch_size, seed=settings.seed), 512)  # at most
            logits, labels = (torch.cat(each) for each in zip(*((network(x), y) for x, y in batches), strict=True))
        scaled = [nn.functional.cross_entropy(2 ** (power / 2) * logits, labels) for power in range(-12, 5)]
        frequencies = labels.bincount() / len(labels)
        damages[criterion] = (min(scaled) / -(frequencies * frequencies.log()).sum()).item()
    best = min(damages, key=damages.__getitem__)
    network, record = narrowed("auto", 0.5)
    records = {criterion: narrowed(criterion, 0.5)[1] for criterion in damages}
    assert records["magnitude"] != records["taylor"]
    assert record == records[best]
    other = max(damages, key=damages.__getitem__)
    assert network.notes == (
        f"channels ranked by {best}: a trial cut leaves {damages[best]:.0%} of the loss of guessing, "
        f"by {other} {damages[other]:.0%}",
    )
    known = begin_narrowing(
        lct.Run(shutil.copytree(wide.path, tmp_path / "known")), keep=0.5, data=data, damages={other: 0.1, best: 0.2}
    ).network
    assert known.recipe is not None  # as the criterion's damage is not measured again
    assert known.recipe.pruned == (records[other],)


@pytest.mark.slow
def test_every_criterion_takes_others(wide: lct.Run) -> None:
    records = []
    for criterion in ("magnitude", "bn", "lamp", "taylor", "exits"):
        session = begin_narrowing(wide, keep=0.5, importance=criterion)  # type: ignore[arg-type]
        for path in session.opened.path.iterdir():
            path.unlink()
        assert session.network.recipe is not None
        records.append(session.network.recipe.pruned)
    assert all(records.count(record) == 1 for record in records)


def test_recurrent_layers_are_named(tmp_path: Path) -> None:
    recipe = lct.NetworkConfig(model="lstm", model_args={"width": 8}, features=3, steps=4, groups=2, num_outputs=2)
    split = lct.TensorSplit(torch.randn(24, 4, 3), torch.arange(24) % 2)
    data = lct.Data(train=split, val=split, test=split, classes=("a", "b"))
    run = lct.train(lct.build_network(recipe), data, lct.TrainConfig(epochs=1, batch_size=8), run_dir=tmp_path / "run")
    with pytest.raises(
        lct.NetworkError, match=r"main network of .*run cannot be narrowed .* \(\w[\w.]*: .*recurrent layer"
    ):
        lct.narrow(run, keep=0.5, data=data)
    assert not (run.path / "narrowed").exists()


def test_a_regression_of_a_table(table_run: TableRun) -> None:
    run = table_run(task="regression")
    lct.narrow(run, keep=0.5, importance="exits")
    (added,) = [each for each in lct.measure_run(run) if each.origin]
    assert added.flops is not None
    assert added.flops <= 0.5 * flops(lct.load_network(run), run)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, lct.ConfigError, r"`keep=50%`.*`Budget\(flops=\.\.\.\)`"),
        ({"keep": 0.5, "budget": lct.Budget(flops=1e9)}, lct.ConfigError, "`keep=50%`"),
        ({"keep": 0}, lct.ConfigError, "keep is 0"),
        ({"keep": "120%"}, lct.ConfigError, "keep is '120%'"),
        ({"keep": "70"}, lct.ConfigError, "keep is '70'"),
        ({"keep": "much"}, lct.ConfigError, "keep is 'much'"),
        ({"budget": lct.Budget()}, lct.ConfigError, "no limit"),
        ({"budget": lct.Budget(flops="1G")}, lct.ConfigError, "fits 1G FLOPs as it is; `keep=50%` halves its FLOPs$"),
        ({"exit": 0, "budget": lct.Budget(flops="99%")}, lct.ConfigError, "; the main network costs more, and can be"),
        ({"budget": lct.Budget(flops=10)}, lct.BudgetError, r"to 10 FLOPs: [\d.]+k FLOPs .*did you mean 10%, "),
        ({"exit": 7, "keep": 0.5}, lct.NetworkError, "exit 7 does not exist"),
        ({"keep": 0.5, "importance": "luck"}, lct.ConfigError, "importance is 'luck'"),
        ({"keep": 0.5, "distill": 2}, lct.ConfigError, "distill is 2"),
        ({"keep": 0.5, "resume": True}, lct.RunError, "nothing to resume"),
    ],
)
def test_what_cannot_be_done_writes_nothing(
    trained: lct.Run, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lct.narrow(trained, **arguments)
    assert not list((trained.path / "narrowed").glob("*/*"))


def test_what_it_can_be_narrowed_to_is_said_and_can_be_given(trained: lct.Run) -> None:
    network = lct.load_network(trained)
    assert network.recipe is not None
    text = ""
    for asked in ({"keep": 0.001}, {"budget": lct.Budget(flops=1001)}):
        with pytest.raises(lct.BudgetError, match="it gets to `") as refused:
            begin_narrowing(trained, **asked)  # type: ignore[arg-type]
        text += str(refused.value).rpartition("; it gets to ")[2]
    least = narrowest(network.subnetwork(2), network.recipe.example, Limits({}), "exit 2")
    assert least is not None
    assert least.flops
    (keep,), (limit,) = re.findall("`keep=([^`]+)`", text), re.findall(r"`Budget\(flops='([^']+)'\)`", text)
    assert limit == limit_text(least.flops, "flops")
    for given in ({"keep": keep}, {"budget": lct.Budget(flops=limit)}):
        session = begin_narrowing(trained, **given)  # type: ignore[arg-type]
        assert flops(session.network, trained) <= 1.05 * least.flops


@pytest.mark.slow
def test_it_comes_back_in_a_new_process_without_the_engine(trained: lct.Run, tmp_path: Path) -> None:
    added = lct.narrow(trained, keep=0.5)
    x = next(trained.load_data().test.batches(4))[0]
    torch.save(x, tmp_path / "x.pt")
    program = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "import torch, lctprune as lct\n"
        f"network = lct.load_network({str(added.path)!r})\n"
        f"torch.save(network(torch.load({str(tmp_path / 'x.pt')!r})), {str(tmp_path / 'y.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), lct.load_network(added)(x))
