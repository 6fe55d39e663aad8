"""All networks of a run: their numbers stay theirs, and what was begun from another checkpoint is not among them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import lctprune as lct
from lctprune.measure.selection import main_of
from lctprune.workflows.densification import begin_dense
from lctprune.workflows.deployment import deploy
from lctprune.workflows.finetuning import begin_finetuning
from lctprune.workflows.members import added_runs, member_named, member_of, members_of, notes
from lctprune.workflows.selections import read_selection


def numbers(run: lct.Run) -> dict[int, tuple[str, str, int]]:
    return {
        member.number: (member.origin, str(member.run.path.relative_to(run.path)), member.exit)
        for member in members_of(run)
    }


def change_checkpoint(run: lct.Run) -> None:
    """As if the run had been trained on."""
    tensors = run.read_checkpoint("")
    name = next(name for name in tensors if name.endswith("weight"))
    run.write_checkpoint(run.epochs_done, tensors | {name: tensors[name] + 0.1})


def places(run: lct.Run) -> tuple[str, ...]:
    assert run.config.network is not None
    assert run.config.network.cut_point_names is not None
    return run.config.network.cut_point_names


def test_a_run_alone_has_its_exits(trained: lct.Run) -> None:
    assert numbers(trained) == {exit: ("", ".", exit) for exit in range(3)}
    assert [member.name for member in members_of(trained)] == [*places(trained), "main network"]
    for member in members_of(trained):
        assert member_named(trained, member.name) == member_named(trained, str(member.number)) == member
    assert member_named(trained, "main") == member_named(trained, None) == members_of(trained)[-1]
    with pytest.raises(lct.NetworkError, match=rf"exit 'layer9' does not exist; .* has 0 \({places(trained)[0]}\), 1"):
        member_named(trained, "layer9")
    assert added_runs(trained) == []
    assert notes(trained) == []


def test_numbers_stay_whatever_else_is_added(trained: lct.Run) -> None:
    seen = numbers(trained)
    for add in (
        lambda: lct.finetune(trained, 1),
        lambda: lct.densify(trained, epochs=1),
        lambda: lct.finetune(trained, 0),
        lambda: lct.finetune(trained, 4),
    ):
        add()
        now = numbers(trained)
        assert len(now) > len(seen)
        assert {number: now[number] for number in seen} == seen
        assert sorted(now) == list(range(len(now)))
        assert {candidate.exit for candidate in lct.measure_run(trained)} == set(now)
        seen = now
    assert seen[3] == (f"{places(trained)[1]}, fine-tuned", "finetuned/exit1", 0)
    assert seen[4][1:] == ("dense", 0)


def test_what_is_begun_takes_its_numbers_at_once(trained: lct.Run) -> None:
    """Before its first epoch it is no candidate, but what is added later does not take its place."""
    begun = begin_dense(trained, epochs=1)
    lct.finetune(trained, 0)
    first = 3 + len(begun.network.critics)
    assert sorted(numbers(trained)) == [0, 1, 2, first]
    assert notes(trained) == [f"{trained.path / 'dense'} stands at epoch 0 of 1 and is left out"]
    lct.densify(trained, resume=True)
    assert sorted(numbers(trained)) == list(range(first + 1))
    assert notes(trained) == []


def test_what_was_begun_from_another_checkpoint_is_left_out(trained: lct.Run) -> None:
    lct.densify(trained, epochs=1)
    begin_finetuning(trained, 0)
    change_checkpoint(trained)
    assert sorted(numbers(trained)) == [0, 1, 2]
    assert [candidate.exit for candidate in lct.measure_run(trained)] == [0, 1, 2]
    for folder, note in zip(("dense", "finetuned/exit0"), notes(trained), strict=True):
        assert note == (
            f"{trained.path / folder} was begun from another checkpoint of {trained.path} and is left out; remove it"
        )
    with pytest.raises(lct.RunError, match=r"dense was begun from another checkpoint of .*; remove it, and begin anew"):
        lct.densify(trained, resume=True)
    with pytest.raises(lct.RunError, match="exit0 was begun from another checkpoint"):
        lct.finetune(trained, 0, resume=True)
    taken = max(origin.first_number for _, origin in added_runs(trained))
    lct.finetune(trained, 1)
    assert max(numbers(trained)) > taken  # the numbers of what is left out are not given again


def test_an_unknown_number_names_the_known_ones(trained: lct.Run) -> None:
    lct.finetune(trained, 1)
    with pytest.raises(lct.NetworkError, match=rf"exit 9 does not exist; {trained.path} has exits 0, 1, 2, 3$"):
        member_of(trained, 9)
    assert member_of(trained, 3).exit == 0


def test_what_else_stands_in_a_run_is_passed_over(trained: lct.Run) -> None:
    shutil.copytree(trained.path, trained.path / "finetuned" / "copy")
    (trained.path / "finetuned" / "note.txt").write_text("mine")
    (trained.path / "dense").mkdir()
    assert sorted(numbers(trained)) == [0, 1, 2]
    lct.densify(trained, epochs=1)  # an empty folder is no obstacle


def test_an_added_run_is_a_run(trained: lct.Run) -> None:
    dense = lct.densify(trained, epochs=1)
    assert notes(dense) == [f"{dense.path} was added to the run that it stands in, which has all networks"]
    candidates = lct.measure_run(dense)
    assert candidates[-1].name == "main network"
    (alone,) = lct.measure_run(lct.finetune(trained, 0))
    assert alone.exit == 0


# --- measured and deployed -------------------------------------------------------------------------------------------


def test_candidates_are_in_the_order_of_their_costs_and_the_main_network_last(trained: lct.Run) -> None:
    lct.densify(trained, epochs=1)
    lct.finetune(trained, 2)
    candidates = lct.measure_run(trained)
    assert candidates[-1] == main_of(candidates)
    assert candidates[-1].exit == 2
    costs = [candidate.flops for candidate in candidates[:-1]]
    assert costs == sorted(costs)
    assert max(costs) == candidates[-1].flops  # fine-tuned


def test_latencies_of_a_busy_machine_are_measured_again_where_they_decide(trained: lct.Run) -> None:
    known = lct.measure_run(trained)
    file = trained.path / "candidates.json"
    document = json.loads(file.read_text())
    for each in document["candidates"]:
        for name in ("latency_ms", "latency_p95_ms", "latency_high_ms"):
            each[name] = 1e6
    file.write_text(json.dumps(document))
    assert [each.latency_ms for each in lct.measure_run(trained)] == [1e6] * len(known)
    assert all((each.latency_ms or 1e6) < 1e6 for each in lct.measure_run(trained, steady=True))
    assert all((each.latency_ms or 1e6) < 1e6 for each in lct.measure_run(trained))


def test_what_was_measured_is_measured_again_when_something_is_added(trained: lct.Run) -> None:
    first = lct.measure_run(trained)
    assert lct.measure_run(trained) == first  # with its latencies: read back
    lct.finetune(trained, 0)
    second = lct.measure_run(trained)
    assert len(second) == len(first) + 1
    assert lct.measure_run(trained, any_latency=True) == second
    shutil.rmtree(trained.path / "finetuned")
    assert [candidate.exit for candidate in lct.measure_run(trained)] == [0, 1, 2]


def test_an_added_exit_is_deployed_and_its_selection_read_while_it_is_there(trained: lct.Run, tmp_path: Path) -> None:
    fine = lct.finetune(trained, 0)
    candidates = lct.measure_run(trained)
    deployment = deploy(trained, candidates, 3, trained.path / "selected", measure_test=True)
    description = json.loads(deployment.model_card.read_text())
    assert description["exit"] == 3
    assert description["validation"]["origin"] == f"{places(trained)[0]}, fine-tuned"
    assert description["main_network"]["validation"]["exit"] == 2
    assert description["trained_with"]["added"]["run"] == "finetuned/exit0"
    data = trained.load_data()
    on_test = lct.evaluate(lct.load_network(fine), data.test, data.example, latency_repeats=0)[0].accuracy
    main_on_test = lct.evaluate(lct.load_network(trained), data.test, data.example, latency_repeats=0)[-1].accuracy
    assert (deployment.test_accuracy, deployment.main_test_accuracy) == (on_test, main_on_test)
    assert read_selection(trained) == description
    fine.path.rename(tmp_path / "elsewhere")
    assert read_selection(trained) is None
    lct.finetune(trained, 0, lr=0.001)  # another network under the same number
    assert sorted(numbers(trained)) == [0, 1, 2, 3]
    assert read_selection(trained) is None


def test_settings_of_another_version_are_refused(trained: lct.Run) -> None:
    path = trained.path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "training": {**config["training"], "momentum_of_tomorrow": 1}}))
    for add in (lct.densify, lambda run: lct.finetune(run, 0)):
        with pytest.raises(lct.RunError, match=r"does not fit this version of lctprune \(.*momentum_of_tomorrow"):
            add(lct.Run(trained.path))
    assert not (trained.path / "dense").exists()


def test_data_of_another_version_is_refused(trained: lct.Run) -> None:
    path = trained.path / "config.json"
    config = json.loads(path.read_text())
    config["data"]["config"]["colours_of_tomorrow"] = 3
    path.write_text(json.dumps(config))
    with pytest.raises(lct.RunError, match=r"does not fit this version of lctprune \(.*colours_of_tomorrow"):
        lct.Run(trained.path).load_data()


def test_critics_of_another_version_are_refused_in_a_few_words(trained: lct.Run) -> None:
    """Its main network can be had all the same."""
    tensors = trained.read_checkpoint("")
    renamed = {name.replace("critics.", "critics.older."): tensor for name, tensor in tensors.items()}
    trained.write_checkpoint(trained.epochs_done, renamed)
    with pytest.raises(
        lct.RunError, match=rf"Missing key.* \.\.\.\); train it again, or .*`weights={trained.path}`"
    ) as info:
        lct.load_network(trained.path)
    assert len(str(info.value)) < 400 + 2 * len(str(trained.path))
    recipe = trained.config.network
    again = lct.build_network(recipe, weights=str(trained.path)).main_state_dict()
    for name, tensor in again.items():
        assert any(torch.equal(tensor, old) for key, old in tensors.items() if key.endswith(name))
