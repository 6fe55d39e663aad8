"""Critics added to a trained run: where, from what, for how long; and what was trained stays as it is."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from equality import digests, same
from torch import Tensor, nn

import lctprune as lct
from lctprune.measure.scores import score_exits
from lctprune.models.build import build_model
from lctprune.partition.cutting import all_cut_points
from lctprune.workflows.added_critics import AddedCritic, critics_to_add
from lctprune.workflows.densification import begin_dense, cost_of_pass, cost_text, default_epochs
from lctprune.workflows.members import members_of

TableRun = Callable[..., lct.Run]
TINY: dict[str, dict[str, Any]] = {
    "vgg-lct": {"model": "vgg-lct", "model_args": {"width": 4}, "image_size": 16},
    "resnet18": {"model": "resnet18", "model_args": {"width": 8}, "image_size": 16},
    "lstm": {"model": "lstm", "model_args": {"width": 12}, "steps": 5, "features": 6},
    "gru": {"model": "gru", "model_args": {"width": 12}, "steps": 5, "vocabulary": 9},
    "transformer": {"model": "transformer", "model_args": {"width": 16}, "steps": 5, "features": 6},
    "mlp": {"model": "mlp", "model_args": {"width": 16, "layers": 5}, "features": 6},
}


def plain_model(run: lct.Run) -> nn.Module:
    """Build the main network as one model that was never cut."""
    network = lct.load_network(run)
    assert network.recipe is not None
    model = build_model(network.recipe)
    model.load_state_dict(network.main_state_dict())
    return model.eval()


def upto(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """Run a network of stages up to the module `name`."""
    for stage_name, stage in model.named_children():
        for position, layer in enumerate(stage):
            x = layer(x)
            if f"{stage_name}.{position}" == name:
                return x
        if stage_name == name:
            return x
    raise AssertionError(name)


def hand_macs(module: nn.Module, x: Tensor) -> tuple[int, Tensor]:
    """Count multiply-adds of convolutions and linear layers one by one; return them and the output."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        total += weight.numel() * (output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1)

    layers = [each for each in module.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        output = module.eval()(x)
    for hook in hooks:
        hook.remove()
    return total, output


def network_macs(network: lct.LocalCriticNetwork, x: Tensor) -> tuple[list[int], list[int]]:
    """Count the multiply-adds of each group, and of each critic."""
    groups, critics = [], []
    for index, group in enumerate(network.groups):
        count, x = hand_macs(group, x)
        groups.append(count)
        if index < len(network.critics):
            critics.append(hand_macs(network.critics[index], x)[0])
    return groups, critics


# --- what was there --------------------------------------------------------------------------------------------------


def test_the_run_stays_as_it_is(trained: lct.Run) -> None:
    before, known = digests(trained), lct.measure_run(trained)
    (trained.path / "candidates.json").unlink()
    dense = lct.densify(trained, epochs=2)
    assert digests(trained) == before
    assert same(lct.load_network(dense).main_state_dict(), lct.load_network(trained).main_state_dict())
    now = {candidate.exit: candidate for candidate in lct.measure_run(trained)}
    for candidate in known:
        assert (now[candidate.exit].accuracy, now[candidate.exit].loss) == (candidate.accuracy, candidate.loss)
        assert now[candidate.exit].name == candidate.name
    assert [lct.load_network(dense)(x).argmax(1).tolist() for x in inputs_of(dense)] == [
        lct.load_network(trained)(x).argmax(1).tolist() for x in inputs_of(trained)
    ]


def inputs_of(run: lct.Run) -> Iterator[Tensor]:
    for inputs, _ in run.load_data().val.batches(8):
        yield inputs


def test_an_added_exit_is_the_main_network_up_to_its_place_and_its_critic(trained: lct.Run) -> None:
    dense = lct.densify(trained, epochs=1)
    model, network = plain_model(trained), lct.load_network(dense)
    x = next(inputs_of(trained))
    added = [member for member in members_of(trained) if member.run.path == dense.path]
    assert len(added) == len(network.critics) >= 5
    for member in added:
        place = member.origin.removeprefix("at ").partition(",")[0]
        with torch.no_grad():
            expected = network.critics[member.exit](upto(model, place, x))
            torch.testing.assert_close(network.subnetwork(member.exit)(x), expected)
            torch.testing.assert_close(network.exits(x)[member.exit], expected)


def test_critics_learn(trained: lct.Run) -> None:
    begun = begin_dense(trained, epochs=1)
    before = [
        {name: tensor.clone() for name, tensor in critic.state_dict().items()} for critic in begun.network.critics
    ]
    for _ in begun.steps():
        pass
    for critic, state in zip(begun.network.critics, before, strict=True):
        assert not same(critic.state_dict(), state)


# --- what they start from, and for how long --------------------------------------------------------------------------


def test_a_critic_starts_from_the_nearest_trained_one_of_equal_shape_or_as_a_part_of_one(trained: lct.Run) -> None:
    network, begun = lct.load_network(trained), begin_dense(trained, epochs=1)
    example = trained.load_data().example
    ends = list(itertools.accumulate(network_macs(network, example)[0]))[:-1]
    places = list(itertools.accumulate(network_macs(begun.network, example)[0]))[:-1]
    states = [critic.state_dict() for critic in network.critics]
    seen = {"equal": 0, "part": 0}
    for critic, place in zip(begun.network.critics, places, strict=True):
        state = critic.state_dict()
        fitting = []
        for index in sorted(range(len(states)), key=lambda k: abs(ends[k] - place)):
            other = states[index]
            if other.keys() == state.keys():
                sides = [pair for name in state for pair in zip(state[name].shape, other[name].shape, strict=True)]
                if all(own <= others for own, others in sides):
                    fitting.append((other, all(own == others for own, others in sides)))
        if not fitting:
            continue
        kind = "equal" if any(equal for _, equal in fitting) else "part"
        other = next(each for each, equal in fitting if equal or kind == "part")
        for name, tensor in state.items():
            leading = other[name]
            for dim, size in enumerate(tensor.shape):
                leading = leading.narrow(dim, 0, size)
            assert torch.equal(tensor, leading)
        seen[kind] += 1
    assert min(seen.values()) > 0
    assert sum(seen.values()) < len(places)  # maps of a size that no trained critic stands at: anew


@pytest.mark.parametrize(
    ("pace", "cost", "text"),
    [
        (27.0, 1.234, "about 1.2 epochs of its own training (2 s at its pace)"),
        (0.1, 0.5, "about 0.5 epochs of its own training (4 min at its pace)"),
        (0.001, 0.5, "about 0.5 epochs of its own training (7.5 h at its pace)"),
        (None, 0.5, "about 0.5 epochs of its own training"),
        (1.0, None, "a cost that is not known"),
    ],
)
def test_the_cost_is_told_in_epochs_and_in_time(
    pace: float | None, cost: float | None, text: str, trained: lct.Run
) -> None:
    rows = [{**row, "images_per_s": pace} for row in trained.rows_to_continue()]
    trained.write_metrics([{name: value for name, value in row.items() if value is not None} for row in rows])
    assert cost_text(trained, cost) == text


@pytest.mark.parametrize(
    "training", [lct.TrainConfig(epochs=30), lct.TrainConfig(epochs=80, freeze_main=True)], ids=["all", "critics only"]
)
def test_the_added_training_costs_at_most_a_fifth(trained: lct.Run, training: lct.TrainConfig) -> None:
    network, dense = lct.load_network(trained), begin_dense(trained).network
    example = trained.load_data().example
    cost = cost_of_pass(network, dense, example, training)
    assert cost is not None
    epochs = default_epochs(cost, training)
    groups, critics = network_macs(network, example)
    trained_parts = (1 if training.freeze_main else 3) * sum(groups) + 3 * sum(critics)
    groups, critics = network_macs(dense, example)
    added = sum(groups) + 3 * sum(critics)
    share = 0.2 * training.epochs * trained_parts
    assert epochs * added <= share < (epochs + 1) * added
    assert cost == pytest.approx(added / trained_parts)
    assert epochs > 1
    assert begin_dense(trained, resume=True).opened.config.training.epochs == 1  # of two epochs a fifth is less


def test_resumed_equals_uninterrupted(trained: lct.Run, tmp_path: Path) -> None:
    other = lct.Run(trained.path)
    begun = begin_dense(trained, epochs=3)
    for progress in begun.steps():
        if progress.epoch == 2 and progress.step == 2:
            break
    assert begun.run.epochs_done == 1
    parts = trained.path.rename(tmp_path / "moved")  # where it stands makes no difference
    resumed = lct.densify(lct.Run(parts), resume=True)
    moved_back = safetensors.torch.load_file(resumed.path / "checkpoint.safetensors")
    (resumed.path).rename(tmp_path / "dense-in-parts")
    parts.rename(other.path)
    whole = safetensors.torch.load_file(lct.densify(other, epochs=3).path / "checkpoint.safetensors")
    assert same(whole, moved_back)


# --- where -----------------------------------------------------------------------------------------------------------


def costs_of(added: list[AddedCritic], config: dict[str, Any], kind: str) -> list[tuple[str, int, int]]:
    """List cut point, parameters and FLOPs of each critic's exit."""
    costs = []
    for each in added:
        critic = lct.make_critic(
            kind,
            each.cut.shape,
            config.get("num_outputs", 10),
            width=each.width,
            depth=each.depth,
            channels_last=each.cut.channels_last,
        )
        flops = each.cut.flops + lct.count_flops(critic, torch.zeros(1, *each.cut.shape))
        costs.append((each.cut.node_name, lct.count_parameters(critic), flops))
    return costs


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("name", TINY)
def test_every_added_exit_is_another_network_and_cheaper_than_the_main_one(name: str, groups: int) -> None:
    network = lct.build_network(lct.NetworkConfig(**TINY[name], groups=groups))
    example = network.recipe.example
    added = critics_to_add(network, example)
    costs = costs_of(added, TINY[name], "tail")
    standing = list(zip(network.cuts, (lct.count_parameters(critic) for critic in network.critics), strict=True))
    places = [(place, parameters) for place, parameters, _ in costs] + standing
    assert len(set(places)) == len(places)
    assert all(flops < lct.count_flops(network, example) for *_, flops in costs)
    assert [critic.cut.node for critic in added] == sorted(critic.cut.node for critic in added)
    assert {critic.width for critic in added} <= {
        width * factor for width in network.critic_widths or [1] for factor in (1, 0.5)
    }
    dense = lct.build_network(
        lct.NetworkConfig(
            **TINY[name],
            cuts=[critic.cut.node_name for critic in added],
            critic_width=[critic.width for critic in added],
            groups=len(added) + 1,
        )
    )
    assert len(dense.exits(example)) == len(added) + 1


def test_a_resnet_gets_at_least_12_candidates() -> None:
    network = lct.build_network(lct.NetworkConfig(model="resnet18", groups=4))
    assert len(network.groups) + len(critics_to_add(network, network.recipe.example)) >= 12


@pytest.mark.parametrize(("kind", "widths"), [("linear", {1.0}), ("paper", {1.0, 0.5}), ("pooled", {1.0, 0.5})])
def test_critics_of_every_kind(kind: str, widths: set[float]) -> None:
    network = lct.build_network(lct.NetworkConfig(**TINY["vgg-lct"] | {"model_args": {"width": 32}}, critic=kind))
    added = critics_to_add(network, network.recipe.example)
    assert {critic.width for critic in added} == widths
    assert all(critic.cut.node_name not in network.cuts for critic in added if critic.width == 1)


def test_depth_and_width_are_those_of_the_nearest_critic() -> None:
    settings = {"critic_depth": (1, 2), "critic_width": (0.5, 2.0), "split_at": ("stage1", "stage2")}
    network = lct.build_network(lct.NetworkConfig(**TINY["vgg-lct"], **settings))
    added = critics_to_add(network, network.recipe.example)
    assert {critic.nearest for critic in added} == {(0, 1), (1, 0)}
    for critic in added:
        assert critic.depth == (1, 2)[critic.nearest[0]]
        assert critic.width in ((0.5, 0.25), (2.0, 1.0))[critic.nearest[0]]


def test_what_stands_there_twice_is_not_added_again() -> None:
    settings = {"split_at": ("layer2", "layer2", "layer4"), "critic_width": (1, 0.5, 2)}
    network = lct.build_network(lct.NetworkConfig(**TINY["mlp"], **settings))
    added = critics_to_add(network, network.recipe.example)
    assert [critic.width for critic in added if critic.cut.name == "layer2"] == []
    assert [critic.width for critic in added if critic.cut.name == "layer1"] == [1, 0.5]


def test_without_a_place_nothing_is_begun(table_run: TableRun) -> None:
    run = table_run(method="backprop", model_args={"width": 4, "layers": 1})
    with pytest.raises(lct.NetworkError, match="no cut point for a further critic"):
        lct.densify(run)
    assert not (run.path / "dense").exists()


# --- other runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "metric"),
    [
        ({"method": "backprop"}, "accuracy"),
        ({"method": "joint"}, "accuracy"),
        ({"task": "regression"}, "R2"),
        ({"critic": "linear"}, "accuracy"),
    ],
    ids=["backprop", "joint", "regression", "linear"],
)
def test_a_table(settings: dict[str, Any], metric: str, table_run: TableRun) -> None:
    run = table_run(**settings)
    own = len(lct.load_network(run).groups)
    dense = lct.densify(run, epochs=1)
    candidates = lct.measure_run(run)
    assert len(candidates) == own + len(lct.load_network(dense).critics) > own
    assert {candidate.metric for candidate in candidates} == {metric}
    assert same(lct.load_network(dense).main_state_dict(), lct.load_network(run).main_state_dict())


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_a_network_of_sequences(name: str, tmp_path: Path) -> None:
    data = lct.load_data(lct.DataConfig(name="digits-rows"))
    recipe = lct.NetworkConfig(**TINY[name] | {"steps": 8, "features": 8, "groups": 2})
    run = lct.train(lct.build_network(recipe), data, lct.TrainConfig(epochs=1), run_dir=tmp_path / "run")
    lct.densify(run)
    added = [candidate for candidate in lct.measure_run(run) if candidate.origin]
    assert len(added) >= 2
    assert lct.measure_run(run)[-1].name == "main network"


def test_data_that_a_program_made(data: lct.Data, tmp_path: Path) -> None:
    recipe = lct.NetworkConfig(
        model="vgg-lct", model_args={"width": 4}, groups=2, num_outputs=3, image_size=8, in_channels=1
    )
    run = lct.train(lct.build_network(recipe), data, lct.TrainConfig(epochs=1), run_dir=tmp_path / "run")
    with pytest.raises(lct.RunError, match="was trained on data made in a program"):
        lct.densify(run)
    with pytest.raises(lct.RunError, match="was trained on data made in a program"):
        lct.finetune(run, 0)
    before = score_exits(lct.load_network(run), data.train).loss
    dense, tuned = lct.densify(run, data=data, epochs=4), lct.finetune(run, 0, data=data, distill=0, epochs=4)
    assert score_exits(lct.load_network(dense), data.train).loss[-1] == pytest.approx(before[-1])
    assert score_exits(lct.load_network(tuned), data.train).loss[0] < before[0]


def test_data_unlike_that_of_the_run_is_refused(trained: lct.Run) -> None:
    data = trained.load_data()
    other = dataclasses.replace(data, classes=("red", "blue", "green"))
    for add in (lambda: lct.densify(trained, data=other), lambda: lct.finetune(trained, 0, data=other)):
        with pytest.raises(lct.RunError, match=r"classes was .*blue.* is .*red"):
            add()


@pytest.mark.parametrize("critic", ["tail", "pooled", "paper", "linear"])
def test_no_critic_starts_from_a_part_of_one_for_maps_of_another_size(critic: str) -> None:
    """What flattens a map has other positions where a narrower critic has other channels."""
    recipe = lct.NetworkConfig(**TINY["vgg-lct"], groups=3, critic=critic)
    network = lct.build_network(recipe)
    cuts = {place.node_name: place.shape for place in all_cut_points(build_model(recipe), network.recipe.example)}
    for added in critics_to_add(network, network.recipe.example):
        assert all(cuts[network.recipe.cuts[index]] == added.cut.shape for index in added.alike)
        assert set(added.alike) == {k for k in added.nearest if cuts[network.recipe.cuts[k]] == added.cut.shape}


# --- what cannot be --------------------------------------------------------------------------------------------------


def test_once_a_run(trained: lct.Run) -> None:
    with pytest.raises(lct.RunError, match=r"nothing to resume in .*dense; leave out `resume`"):
        lct.densify(trained, resume=True)
    dense = lct.densify(trained, epochs=1)
    before = digests(dense)
    with pytest.raises(lct.RunError, match="dense exists: that is trained to its end; remove it to begin anew"):
        lct.densify(trained)
    with pytest.raises(lct.RunError, match="another training \\(epochs was"):
        lct.densify(trained, epochs=2, resume=True)
    with pytest.raises(lct.RunError, match="was itself added to a run"):
        lct.densify(dense)
    lct.densify(trained, resume=True)  # there is nothing left to do
    assert digests(dense) == before


def test_only_a_finished_run(tmp_path: Path, trained: lct.Run) -> None:
    data, network = trained.load_data(), lct.load_network(trained)
    config = lct.TrainConfig(epochs=2, batch_size=18)
    run = lct.open_run(network, data, config, run_dir=tmp_path / "half")
    for progress in lct.train_steps(network, data, run):
        if progress.epoch == 2:
            break
    with pytest.raises(lct.RunError, match="half is not trained to its end; go on with lctprune resume"):
        lct.densify(run)
    assert not (run.path / "dense").exists()
    with pytest.raises(lct.ConfigError, match="epochs is 0"):
        lct.densify(trained, epochs=0)
    assert not (trained.path / "dense").exists()
