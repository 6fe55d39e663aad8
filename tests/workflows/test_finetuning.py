"""One exit trained on, end to end: with what loss, from where, and what becomes of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from equality import digests, same
from torch import Tensor

import lctprune as lct
from lctprune.losses import distance_to_teacher, mean_squared_error
from lctprune.models.build import network_of
from lctprune.utils.files import write_json
from lctprune.workflows.finetuning import begin_finetuning, described
from lctprune.workflows.members import member_of, members_of
from lctprune.workflows.taught import MOST_KEPT, Outputs, TaughtSplit, distillation_loss, repeatable_views

TableRun = Callable[..., lct.Run]


def checkpoint(run: lct.Run) -> dict[str, Tensor]:
    return safetensors.torch.load_file(run.path / "checkpoint.safetensors")


# --- the loss --------------------------------------------------------------------------------------------------------


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_distillation_of_classes(weight: float) -> None:
    """(1 - w) cross-entropy + w T^2 KL(teacher, student) at T = 4, sample by sample in double precision."""
    outputs, teacher = (3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    labels = [3, 0, 2, 2, 1]
    target = torch.cat([torch.tensor(labels).float()[:, None], teacher], 1)
    losses = distillation_loss(outputs, target, loss=lct.cross_entropy, weight=weight, is_regression=False)
    for row, label in enumerate(labels):
        student, taught = outputs[row].tolist(), teacher[row].tolist()
        entropy = -math.log(softmax(student, 1)[label])
        pairs = zip(softmax(taught, 4), softmax(student, 4), strict=True)
        distance = 16 * sum(wanted * math.log(wanted / given) for wanted, given in pairs)
        assert losses[row].item() == pytest.approx((1 - weight) * entropy + weight * distance, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_distillation_of_numbers(weight: float) -> None:
    outputs, labels, teacher = (torch.randn(5, 2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
    target = torch.cat([labels, teacher], 1)
    losses = distillation_loss(outputs, target, loss=mean_squared_error, weight=weight, is_regression=True)
    for row in range(5):
        output = outputs[row].tolist()
        to_label, to_teacher = (
            sum((a - b) ** 2 for a, b in zip(output, each[row].tolist(), strict=True)) / 2 for each in (labels, teacher)
        )
        assert losses[row].item() == pytest.approx((1 - weight) * to_label + weight * to_teacher, rel=1e-5)


def test_what_the_teacher_gives_stands_behind_the_labels(trained: lct.Run) -> None:
    data, teacher = trained.load_data(), lct.load_network(trained)
    config = lct.TrainConfig(precision="fp32")
    taught = TaughtSplit(data.train, lct.load_network(trained).train(), config)  # its mode is not that of training
    pairs = zip(data.train.shuffled(18, seed=3), taught.shuffled(18, seed=3), strict=True)
    for (inputs, labels), (same_inputs, targets) in pairs:
        assert torch.equal(inputs, same_inputs)
        assert targets[:, 0].tolist() == labels.tolist()
        with torch.no_grad():
            torch.testing.assert_close(targets[:, 1:], teacher(inputs))
        assert not targets.requires_grad
    assert torch.equal(taught.targets, data.train.targets)
    for (inputs, labels), (same_inputs, same_labels) in zip(data.train.batches(7), taught.batches(7), strict=True):
        assert torch.equal(inputs, same_inputs)
        assert torch.equal(labels, same_labels)


def test_repeated_passes_need_the_teacher_once(trained: lct.Run) -> None:
    data, teacher = trained.load_data(), lct.load_network(trained)
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    taught = TaughtSplit(data.train, teacher, lct.TrainConfig(precision="fp32", seed=1), views=2)
    passes = [[*taught.shuffled(18, seed=100_003 + epoch)] for epoch in range(5)]
    assert len(calls) == 2 * len(passes[0])
    for epoch, batches in enumerate(passes):
        for (inputs, targets), (first, first_targets) in zip(batches, passes[epoch % 2], strict=True):
            assert torch.equal(inputs, first)
            assert torch.equal(targets, first_targets)
    assert not torch.equal(passes[0][0][0], passes[1][0][0])
    outputs: Outputs = {}
    for _ in range(2):  # two networks, one after the other
        shared = TaughtSplit(data.train, teacher, lct.TrainConfig(precision="fp32", seed=1), views=2, outputs=outputs)
        again = [*shared.shuffled(18, seed=100_003)]
        assert all(
            torch.equal(one, two) for pair in zip(again, passes[0], strict=True) for one, two in zip(*pair, strict=True)
        )
    assert len(calls) == 3 * len(passes[0])
    other = TaughtSplit(data.train, teacher, lct.TrainConfig(precision="fp32", seed=2), views=2)
    assert not torch.equal(passes[0][0][0], next(other.shuffled(18, seed=2 * 100_003))[0])  # another training's order


def test_outputs_are_kept_of_passes_that_repeat_and_fit(trained: lct.Run) -> None:
    data = trained.load_data()
    assert repeatable_views(data, 3) == 3
    most = MOST_KEPT // (4 * data.num_outputs * data.train.samples)
    assert (repeatable_views(data, most), repeatable_views(data, most + 1)) == (most, 0)
    samples = torch.utils.data.TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8) % 2)
    own = lct.Split.from_dataset(samples)  # it may be augmented in another way in each pass
    assert repeatable_views(dataclasses.replace(data, train=own, config=None), 3) == 0


# --- the training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exit", [0, 2], ids=["an exit", "the main network"])
def test_without_distillation_it_is_plain_training_of_that_network(exit: int, trained: lct.Run, tmp_path: Path) -> None:
    fine = lct.finetune(trained, exit, epochs=2, distill=0, lr=0.03)
    source = lct.load_network(trained)
    network = network_of(source, dataclasses.replace(source.recipe, exit=exit))
    config = dataclasses.replace(trained.config.training, method="backprop", epochs=2, lr=0.03)
    plain = lct.train(network, trained.load_data(), config, run_dir=tmp_path / "plain")
    assert same(checkpoint(fine), checkpoint(plain))


def test_the_teacher_counts(trained: lct.Run, tmp_path: Path) -> None:
    states = []
    for distill in (0.0, 0.5, 1.0):
        fine = lct.finetune(trained, 0, distill=distill)
        states.append(lct.load_network(fine).state_dict())
        fine.path.rename(tmp_path / f"{distill}")
    assert not same(states[0], states[1])
    assert not same(states[1], states[2])


def test_it_learns_what_the_main_network_gives(trained: lct.Run) -> None:
    """The exit comes nearer to its teacher's outputs."""

    def distance(exit_network: torch.nn.Module) -> float:
        total = 0.0
        with torch.no_grad():
            for inputs, _ in trained.load_data().train.batches(18):
                student, taught = (network(inputs) for network in (exit_network, teacher))
                total += float(distance_to_teacher(is_regression=False)(student, taught).sum())
        return total

    teacher = lct.load_network(trained)
    before = distance(teacher.subnetwork(0))
    fine = lct.finetune(trained, 0, epochs=12, lr=0.02, distill=1.0)
    assert distance(lct.load_network(fine)) < before


def test_settings_come_from_the_run(trained: lct.Run) -> None:
    begun = lct.finetune(trained, 0).config.to_dict()["training"]
    expected = trained.config.to_dict()["training"] | {"method": "backprop", "epochs": 1, "distill": "0"}
    assert begun.pop("lr") == pytest.approx(0.2 * expected.pop("lr"))
    assert begun == expected
    given = lct.finetune(trained, 1, lr=0.004, epochs=2).config.to_dict()["training"]
    assert (given["lr"], given["epochs"]) == (0.004, 2)


def test_a_run_of_another_machine_is_trained_on_with_the_device_that_is_here(trained: lct.Run) -> None:
    path = trained.path / "config.json"
    config = json.loads(path.read_text())
    config["training"]["device"] = "cuda"
    write_json(path, config)
    for added in (lct.finetune(lct.Run(trained.path), 0), lct.densify(lct.Run(trained.path), epochs=1)):
        assert added.config.training.device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_resumed_one_equals_an_uninterrupted_one(trained: lct.Run, tmp_path: Path) -> None:
    whole = lct.finetune(trained, 0, epochs=3, distill=0.4, lr=0.02)
    whole.path.rename(tmp_path / "whole")
    begun = begin_finetuning(trained, 0, epochs=3, distill=0.4, lr=0.02)
    steps = begun.steps()
    for progress in steps:
        if progress.epoch == 2 and progress.step == 2:
            break
    steps.close()  # type: ignore[attr-defined]  # or the run stays locked
    assert begun.run.epochs_done == 1
    for settings, named in (
        ({"distill": 0.5}, "distill 0.4"),
        ({"lr": 0.1}, r"another training \(lr was"),
        ({"epochs": 2}, r"another training \(epochs was"),
    ):
        with pytest.raises(lct.RunError, match=named):
            lct.finetune(trained, 0, resume=True, **settings)
    resumed = lct.finetune(trained, 0, resume=True)
    assert same(checkpoint(resumed), checkpoint(lct.Run(tmp_path / "whole")))


# --- what becomes of it ----------------------------------------------------------------------------------------------


def test_the_result_is_a_candidate_and_the_run_stays_as_it_is(trained: lct.Run) -> None:
    lct.measure_run(trained)
    before = digests(trained)
    lct.finetune(trained, 0)
    lct.finetune(trained, 2)
    again = lct.finetune(trained, 3, epochs=2)  # what became of exit 0
    after = digests(trained)
    assert before == after
    candidates = {candidate.exit: candidate for candidate in lct.measure_run(trained)}
    first = candidates[0].name
    assert {exit: each.origin for exit, each in candidates.items()} == {
        0: "",
        1: "",
        2: "",
        3: f"{first}, fine-tuned",
        4: "main network, fine-tuned",
        5: f"{first}, fine-tuned twice",
    }
    for fine, source in ((3, 0), (4, 2), (5, 0)):
        assert candidates[fine].flops == candidates[source].flops
        assert candidates[fine].parameters == candidates[source].parameters
    assert lct.measure_run(trained)[-1].name == "main network"
    data, network = trained.load_data(), lct.load_network(again)
    (alone,) = lct.evaluate(network, data.val, data.example, latency_repeats=0)
    assert (alone.accuracy, alone.loss) == (candidates[5].accuracy, candidates[5].loss)
    assert same(network.state_dict(), lct.load_network(member_of(trained, 5).run).state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a, fine-tuned twice", "a, fine-tuned 3 times"),
        ("a, fine-tuned twice (exit 5)", "a, fine-tuned 3 times"),
        ("a, fine-tuned 3 times", "a, fine-tuned 4 times"),
        ("a, fine-tuned, fine-tuned", "a, fine-tuned 3 times"),  # as earlier versions recorded it
        ("a, fine-tuned (exit 5)", "a, fine-tuned twice"),
        ("a, fine-tuned, narrowed to 70% of its FLOPs", "a, fine-tuned, narrowed to 70% of its FLOPs, fine-tuned"),
    ],
)
def test_a_name_says_once_how_often_it_was_fine_tuned(name: str, expected: str) -> None:
    assert described(name) == expected


def test_an_exit_far_smaller_than_its_network(trained: lct.Run, tmp_path: Path) -> None:
    """All of the network is built to take the exit out, and has many times the weights of its checkpoint."""
    data = trained.load_data()
    inputs = {"in_channels": len(data.example[0]), "image_size": data.example.shape[-1]}
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 4}, num_outputs=data.num_outputs, **inputs)
    config = lct.TrainConfig(epochs=1, batch_size=16)
    run = lct.train(lct.build_network(recipe), data, config, run_dir=tmp_path / "deep")
    fine = lct.load_network(lct.finetune(run, 0, data=data).path)
    assert lct.count_parameters(lct.load_network(run.path)) > 20 * lct.count_parameters(fine)


def test_an_added_exit_is_trained_on(trained: lct.Run) -> None:
    lct.densify(trained, epochs=1)
    added = members_of(trained)[-1]
    fine = lct.finetune(trained, added.number)
    member = member_of(trained, added.number + 1)
    assert member.run.path == fine.path
    assert member.origin == f"{added.origin}, fine-tuned"
    before, after = lct.load_network(added.run).subnetwork(added.exit), lct.load_network(fine)
    assert [tensor.shape for tensor in before.state_dict().values()] == [
        tensor.shape for tensor in after.state_dict().values()
    ]


@pytest.mark.parametrize("settings", [{"task": "regression"}, {"method": "backprop"}, {"method": "joint"}], ids=str)
def test_a_table(settings: dict[str, str], table_run: TableRun) -> None:
    run = table_run(**settings)
    fine = lct.finetune(run, 0)
    own = len(lct.load_network(run).groups)
    assert len(lct.measure_run(run)) == own + 1
    assert fine.metrics[0]["exit0_val_loss"]


# --- what cannot be --------------------------------------------------------------------------------------------------


def test_what_cannot_be_leaves_nothing(trained: lct.Run) -> None:
    with pytest.raises(lct.NetworkError, match=r"exit 7 does not exist; .* has exits 0, 1, 2"):
        lct.finetune(trained, 7)
    for distill in (-0.1, 1.1, math.nan):
        with pytest.raises(lct.ConfigError, match=r"distill is .*; it must lie between 0 and 1"):
            lct.finetune(trained, 0, distill=distill)
    with pytest.raises(lct.ConfigError, match="lr is 0"):
        lct.finetune(trained, 0, lr=0)
    with pytest.raises(lct.ConfigError, match="epochs is 0"):
        lct.finetune(trained, 0, epochs=0)
    with pytest.raises(lct.RunError, match="nothing to resume"):
        lct.finetune(trained, 0, resume=True)
    assert not (trained.path / "finetuned").exists()
    fine = lct.finetune(trained, 0)
    with pytest.raises(lct.RunError, match=r"exit0 exists: that is trained to its end"):
        lct.finetune(trained, 0)
    with pytest.raises(lct.RunError, match="was itself added to a run"):
        lct.finetune(fine, 0)
