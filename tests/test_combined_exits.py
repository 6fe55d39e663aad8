"""Leaving early and ensembles: against loops over single samples, brute force, and the files that are exported."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch.nn import functional

import lctprune as lct
from lctprune.errors import NetworkError
from lctprune.measure.early_exit import ExitCosts, Outcome, Setting, confidences, fit_temperature, outcome
from lctprune.measure.ensembling import ensembles, fit_weights, subsets
from lctprune.measure.exit_fitting import MARGIN, Goal, _Fitting, fit
from lctprune.measure.outputs import ExitOutputs, exit_outputs, halves
from lctprune.measure.paired import mcnemar
from lctprune.progressive import converted, write_scripted
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import members_of
from lctprune.workflows.progressive_files import convert_stages, read_progressive
from lctprune.workflows.progressive_fitting import _missed

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
Cli = Callable[..., Any]
DRIVER = Path(__file__).parent.parent / "examples" / "leave_early_with_onnxruntime.py"
TEMPERATURES = [1.5, 0.8, 1.2]


def one_by_one(
    network: lct.LocalCriticNetwork, x: torch.Tensor, thresholds: list[float]
) -> tuple[list[torch.Tensor], list[int]]:
    """Algorithm 1 for single samples, with every exit computed whole."""
    outputs, left = [], []
    for sample in x:
        for index, temperature in enumerate(TEMPERATURES):
            logits = network.subnetwork(index)(sample[None])[0] / temperature
            probability = (logits - logits.max()).exp() / (logits - logits.max()).exp().sum()
            if index == 2 or probability.max() >= thresholds[index]:
                break
        outputs.append(logits)
        left.append(index)
    return outputs, left


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_a_batch_gives_the_answers_of_a_loop(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    network = make_network().eval()
    x = torch.cat([data.test.batches(30).__next__()[0], torch.randn(34, 1, 8, 8)])
    with torch.no_grad():
        logits = torch.stack(network.exits(x))
    confidence = confidences(logits, TEMPERATURES)
    thresholds = [confidence[0].sort().values[40:42].mean().item(), confidence[1].sort().values[30:32].mean().item()]
    progressive = lct.ProgressiveNetwork(network, [0, 1, 2], thresholds, TEMPERATURES).eval()
    seen: list[int] = []
    for group in network.groups:
        group.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    with torch.no_grad():
        actual, left = progressive.leave(x)
        counts = list(seen)
        expected, expected_left = one_by_one(network, x, thresholds)
        for single, output in zip(x, expected, strict=True):
            torch.testing.assert_close(progressive(single[None])[0], output, rtol=1e-4, atol=1e-5)
    assert left.tolist() == expected_left
    assert len(set(expected_left)) == 3  # some leave at each exit
    torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert counts == [sum(each >= index for each in expected_left) for index in range(3)]  # no work for those who left
    write_scripted(converted(progressive, x), tmp_path / "model.pt")
    loaded = torch.jit.load(tmp_path / "model.pt")
    for batch in (1, 3, 64):
        outputs, places = loaded.leave(x[:batch])
        assert places.tolist() == expected_left[:batch]
        torch.testing.assert_close(outputs, actual[:batch], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(loaded(x[:batch]), outputs)
    assert loaded.exits == [0, 1, 2]
    assert not progressive.training


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1, 0], [0.5]), r"exits are \[1, 0\]"),
        (([0, 3], [0.5]), "0 to 2"),
        (([], []), "ascending"),
        (([0, 1], []), "2 exits need 1 thresholds"),
        (([0, 1], [1.5]), "not between 0 and 1"),
        (([0, 1], [0.5], [1.0, 0.0]), "no.* positive number"),
    ],
)
def test_what_is_no_progressive_network(arguments: Any, words: str, make_network: MakeNetwork) -> None:
    with pytest.raises(NetworkError, match=words):
        lct.ProgressiveNetwork(make_network(), *arguments)


def test_stages_in_onnx_need_nothing_but_their_driver(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    network = make_network().eval()
    x = torch.cat([next(data.test.batches(30))[0], torch.randn(34, 1, 8, 8)])
    with torch.no_grad():
        confidence = confidences(torch.stack(network.exits(x)), TEMPERATURES)
        thresholds = [row.sort().values[[35, 36]].mean().item() for row in confidence[:2]]
        progressive = lct.ProgressiveNetwork(network, [0, 1, 2], thresholds, TEMPERATURES).eval()
        expected, left = progressive.leave(x)
    assert len(left.unique()) == 3
    stages = []
    for index, converted_stage in enumerate(convert_stages(progressive, x)):
        stages.append({"file": f"stage{index}.onnx", "threshold": [*thresholds, None][index]})
        (tmp_path / f"stage{index}.onnx").write_bytes(converted_stage.content)
    (tmp_path / "model.json").write_text(json.dumps({"stages": stages}))
    for missing in ("torch", "lctprune"):
        (tmp_path / f"{missing}.py").write_text("raise ImportError")
    numpy.save(tmp_path / "x.npy", x.numpy())
    command = [sys.executable, "-W", "error", DRIVER, tmp_path, tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run([*map(str, command)], check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    actual = torch.from_numpy(numpy.load(tmp_path / "y.npy"))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def made_up(samples: int, seed: int, classes: int = 3) -> tuple[ExitOutputs, ExitCosts]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (samples,), generator=generator)
    signal = functional.one_hot(targets, classes) * torch.tensor([0.8, 1.2, 2.0])[:, None, None]
    logits = signal + torch.randn(3, samples, classes, generator=generator)
    return ExitOutputs(logits, targets), ExitCosts((40, 30, 50), (5, 7, 0))


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(samples=st.integers(2, 25), seed=st.integers(0, 999), price=st.sampled_from([0.0, 0.1, 1.0]))
def test_a_threshold_is_the_best_of_all(samples: int, seed: int, price: float) -> None:
    outputs, costs = made_up(samples, seed)
    confidence = confidences(outputs.logits, [1.0, 1.0, 1.0])
    fitting = _Fitting(outputs.correct.double(), confidence, costs, 2, price / 120)
    for exit, other in ((0, 0.5), (1, 0.6), (0, math.inf), (1, math.inf)):
        thresholds = [other, other]

        def value(threshold: float, exit: int = exit, thresholds: list[float] = thresholds) -> float:
            tried = [*thresholds[:exit], threshold, *thresholds[exit + 1 :]]
            used = [each for each in range(2) if tried[each] <= 1]
            found = outcome(outputs, confidence, Setting((*used, 2), tuple(tried[each] for each in used)), costs)
            return found.accuracy - price / 120 * found.mean_flops

        best = max(value(each) for each in [math.inf, *confidence[exit].tolist()])
        assert value(fitting.best(thresholds, exit)) == pytest.approx(best, abs=1e-9)


def test_what_becomes_of_samples_is_counted_as_one_by_one() -> None:
    outputs, costs = made_up(200, 1)
    confidence = confidences(outputs.logits, [1.0, 2.0, 1.0])
    flops, correct, left = [], [], []
    for sample in range(200):
        first = outputs.logits[0, sample].softmax(0)
        exit = 0 if first.max() >= 0.6 else 2
        left.append(exit)
        flops.append(45 if exit == 0 else 40 + 5 + 30 + 50)  # the critic of exit 1 is not asked
        correct.append(bool(outputs.logits[exit, sample].argmax() == outputs.targets[sample]))
    found = outcome(outputs, confidence, Setting((0, 2), (0.6,)), costs)
    assert found.accuracy == pytest.approx(sum(correct) / 200)
    assert found.mean_flops == pytest.approx(sum(flops) / 200)
    assert found.p95_flops == sorted(flops)[189]
    assert found.shares == pytest.approx((left.count(0) / 200, left.count(2) / 200))
    assert found.correct.tolist() == correct


@pytest.mark.parametrize("goal", [Goal(max_drop=3.0), Goal(max_drop=10.0), Goal(flops=100.0), Goal(flops=70.0)])
def test_fitting_for_a_goal_is_near_the_best_pair_of_thresholds(goal: Goal) -> None:
    outputs, costs = made_up(400, 2)
    temperatures = [fit_temperature(each, outputs.targets) for each in outputs.logits]
    confidence = confidences(outputs.logits, temperatures)
    setting, is_met = fit(outputs, temperatures, costs, goal)
    own = outcome(outputs, confidence, setting, costs)
    assert is_met
    assert goal.is_met(own, margin=MARGIN)
    grid = [0.0, *torch.linspace(0.34, 1, 20).tolist()]
    tried = [outcome(outputs, confidence, Setting((0, 1, 2), (a, b)), costs) for a in grid for b in grid]
    meeting = [each for each in tried if goal.is_met(each, margin=MARGIN)]
    if goal.flops is None:
        assert own.mean_flops <= min(each.mean_flops for each in meeting) + 3
    else:
        assert own.accuracy >= max(each.accuracy for each in meeting) - 0.02


@pytest.mark.parametrize(("samples", "seed"), [(150, 6), (300, 4)])
def test_a_small_drop_is_met_where_most_thresholds_miss_it(samples: int, seed: int) -> None:
    outputs, costs = made_up(samples, seed)
    temperatures = [fit_temperature(each, outputs.targets) for each in outputs.logits]
    confidence = confidences(outputs.logits, temperatures)
    goal, grid = Goal(max_drop=0.5), torch.linspace(0.34, 1, 34).tolist()
    tried = [outcome(outputs, confidence, Setting((0, 1, 2), (a, b)), costs) for a in grid for b in grid]
    meeting = [each.mean_flops for each in tried if goal.is_met(each, margin=MARGIN)]
    setting, is_met = fit(outputs, temperatures, costs, goal)
    assert is_met
    assert outcome(outputs, confidence, setting, costs).mean_flops <= min(meeting) + 2 < 120 + 2


@pytest.fixture(scope="module")
def run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> lct.Run:
    """A run with 30 validation samples."""
    torch.manual_seed(0)
    data = lct.load_data(lct.DataConfig(name=str(image_folder), image_size=16, val_fraction=0.5))
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 4}, groups=3, num_outputs=3, image_size=16)
    config = lct.TrainConfig(epochs=4, batch_size=15, precision="fp32")
    return lct.train(lct.build_network(recipe), data, config, run_dir=tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
@pytest.mark.parametrize("formats", ["torchscript", pytest.param("onnx,torchscript", marks=pytest.mark.slow)])
def test_a_run_from_the_command_line(formats: str, run: lct.Run, image_folder: Path, cli: Cli) -> None:
    document = cli("progressive", run.path, "--budget-flops", "95%", "--format", formats, "--json").document
    network, test = lct.load_network(run.path), run.load_data().test
    exits = [each["exit"] for each in document["exits"]]
    thresholds = [each["threshold"] for each in document["exits"][:-1]]
    temperatures = [each["temperature"] for each in document["exits"]]
    progressive = lct.ProgressiveNetwork(network, exits, thresholds, temperatures).eval()
    x, y = next(test.batches(18))
    with torch.no_grad():
        outputs, left = progressive.leave(x)
    record = document["test"]
    assert record["accuracy"] == pytest.approx((outputs.argmax(1) == y).double().mean().item())
    assert record["shares"] == pytest.approx([(left == index).double().mean().item() for index in range(len(exits))])
    assert record["exit_accuracies"] == pytest.approx(
        dict(zip(record["exit_accuracies"], exit_outputs(network, test).correct.double().mean(1).tolist(), strict=True))
    )
    own = document["candidates"][-1]
    assert own["flops"] == round(document["checked_on"]["mean_flops"]) <= 0.95 * document["candidates"][-2]["flops"]
    assert document["fitted_on"]["samples"] + document["checked_on"]["samples"] == 30
    folder = Path(document["folder"])
    assert json.loads((folder / "model.json").read_text())["exits"] == document["exits"]
    loaded = torch.jit.load(folder / "model.pt")
    torch.testing.assert_close(loaded(x), outputs, rtol=1e-3, atol=1e-3)
    assert (folder / "pareto.png").exists()
    assert f"| this network | test | 18 | accuracy | {record['accuracy']:.1%} |" in (folder / "README.md").read_text()
    card = folder / "model.json"
    read = read_progressive(LoadedRun(run))
    assert read is not None
    assert read.test.shares == pytest.approx(record["shares"])
    whole = json.loads(card.read_text())
    for change, words in [({"test": {**whole["test"], "shares": [2.0]}}, "shares"), ({"trained_with": {}}, "earlier")]:
        card.write_text(json.dumps(whole | change))
        with pytest.warns(lct.RunWarning, match=words):
            assert read_progressive(LoadedRun(run)) is None
    card.write_text(json.dumps(whole))
    for file in ("model.pt", "stage0.onnx")[: 2 if "onnx" in formats else 1]:  # a stage stands for all of them
        found = lct.predict(folder / file, [image_folder / "test"])
        expected = dict(zip(("blue", "green", "red"), outputs.softmax(1).T.tolist(), strict=True))
        for index, each in enumerate(found):
            assert dict(each.top) == pytest.approx({name: row[index] for name, row in expected.items()}, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--max-drop", 1, "--format", "pt2"), 2, "format pt2"),
        ((), 2, "only one: --max-drop 0.5"),
        (("--max-drop", 1, "--budget-flops", "50%"), 2, "only one: --max-drop"),
        (("--max-drop", "nan"), 2, "--max-drop is nan"),
        (("--budget-flops", "abc"), 2, "budget flops is 'abc'"),
        (("--budget-flops", "1%"), 3, "not met on the 15 validation samples"),
        (("--budget-flops", "1%"), 3, "--budget-flops 50% is possible"),
    ],
)
def test_goals_that_cannot_be_met(options: tuple[Any, ...], code: int, words: str, run: lct.Run, cli: Cli) -> None:
    result = cli("progressive", run.path, *options, "--out", run.path.parent / "out")
    assert (result.code, words in result.err) == (code, True), result.err
    assert not list((run.path.parent / "out").glob("*"))


@pytest.mark.parametrize(("right", "late"), [(40, 44), (47, 44)])
def test_what_was_compared_with_a_goal_is_said(right: int, late: int) -> None:
    correct = torch.zeros(100, dtype=torch.bool)
    found = Outcome(late / 100, right / 100, 0.07, 50.0, 3.0, 60.0, (1.0,), correct)
    text = _missed(Goal(max_drop=2), found, 100, "it was fitted on", margin=2.0)
    assert f"the drop is {right - late:.2f} points" in text
    assert ("and 10.00 with 2 standard errors of 7.00 added" in text) is (right < late)
    assert text.endswith("it may be at most 2 points")
    text = _missed(Goal(flops=55), found, 100, "it was fitted on", margin=2.0)
    assert "the mean is 50 FLOPs per sample, and 56 FLOPs with 2 standard errors of 3 FLOPs added" in text


def test_runs_whose_exits_cannot_be_combined(trained: lct.Run, table_run: Callable[..., lct.Run], cli: Cli) -> None:
    few = cli("progressive", trained.path, "--max-drop", 1)
    assert (few.code, "validation has 6 samples" in few.err) == (1, True)
    path = table_run(task="regression").path
    for options in (("--max-drop", 1), ()):  # what no goal helps with comes before the goal
        regression = cli("progressive", path, *options)
        assert (regression.code, "one class per sample" in regression.err) == (1, True)


def test_every_subset_is_tried_once() -> None:
    expected = [{exit for exit in range(5) if bits >> exit & 1} for bits in range(32) if bits.bit_count() >= 2]
    assert sorted(map(sorted, map(set, subsets(5)))) == sorted(map(sorted, expected))
    assert all(list(each) == sorted(each) for each in subsets(5))
    with pytest.raises(NetworkError, match=r"13 exits.*at most 12"):
        subsets(13)


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_those_of_a_general_solver(seed: int) -> None:
    outputs, _ = made_up(300, seed)
    likelihoods = outputs.logits.double().softmax(2)[:, torch.arange(300), outputs.targets]

    def loss(weights: Any) -> float:
        return -(torch.as_tensor(weights) @ likelihoods).log().mean().item()

    sum_is_1 = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    expected = minimize(loss, [1 / 3] * 3, bounds=[(0, 1)] * 3, constraints=[sum_is_1], method="SLSQP")
    found = fit_weights(likelihoods)
    assert loss(found) <= expected.fun + 1e-4
    assert found.sum().item() == pytest.approx(1)
    assert found.min() >= 0


def test_ensembles_are_judged_on_samples_that_they_were_not_fitted_on() -> None:
    outputs, costs = made_up(120, 5)
    parts = halves(outputs, seed=0)
    assert sorted(torch.cat(parts).tolist()) == list(range(120))
    found = {each.exits: each for each in ensembles(outputs, parts, costs)}
    assert set(found) == set(subsets(3))
    assert {exits: each.flops for exits, each in found.items()} == {
        (0, 1): 40 + 5 + 30 + 7,
        (0, 2): 40 + 5 + 30 + 50,
        (1, 2): 40 + 30 + 7 + 50,
        (0, 1, 2): 40 + 5 + 30 + 7 + 50,
    }
    probabilities = outputs.logits.double().softmax(2)
    for exits, each in found.items():
        plain, fitted = 0.0, 0.0
        right = []
        for own, other in (parts, parts[::-1]):
            likelihoods = torch.stack([probabilities[exit, own, outputs.targets[own]] for exit in exits])
            weights = fit_weights(likelihoods)
            for sample in other.tolist():
                true = outputs.targets[sample]
                mixed = sum(w * probabilities[exit, sample] for w, exit in zip(weights, exits, strict=True))
                fitted -= float(mixed[true].log()) / 120
                plain -= float(probabilities[list(exits), sample].mean(0)[true].log()) / 120
                right.append((sample, bool(mixed.argmax() == true)))
        assert each.sum_loss == pytest.approx(plain)
        assert each.loss == pytest.approx(min(plain, fitted))
        assert each.is_fitted == (fitted < plain)
        if each.is_fitted:
            assert each.correct.tolist() == [answer for _, answer in sorted(right)]
        else:
            assert each.weights == pytest.approx([1 / len(exits)] * len(exits))


def test_an_ensemble_that_gives_an_exit_no_weight_is_a_smaller_one() -> None:
    outputs, costs = made_up(120, 7)
    logits = outputs.logits.clone()
    logits[0] = -20 * functional.one_hot(outputs.targets, 3)  # never right
    found = ensembles(ExitOutputs(logits, outputs.targets), halves(outputs, seed=0), costs)
    assert {each.exits for each in found if not each.is_smaller} == {(1, 2)}


def test_where_every_ensemble_leaves_an_exit_out_one_network_is_advised(cli: Cli, tmp_path: Path) -> None:
    values = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).tolist()
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"{5 * a + 9 * (a > 0)},{b},{a > 0}\n" for a, b in values))
    data = lct.load_data(lct.DataConfig(name=str(tmp_path / "t.csv"), val_fraction=0.3))
    recipe = {"model": "mlp", "model_args": {"width": 16, "layers": 4}, "features": 2, "groups": 2, "num_outputs": 2}
    config = lct.TrainConfig(epochs=10, batch_size=16)
    run = lct.train(lct.build_network(lct.NetworkConfig(**recipe)), data, config, run_dir=tmp_path / "run")
    tensors = run.read_checkpoint("")
    useless = {name: torch.zeros_like(each) for name, each in tensors.items() if "critics" in name}
    assert useless
    run.write_checkpoint(10, tensors | useless, rows=run.rows_to_continue())
    result = cli("ensemble", run.path, "--threads", 1)
    assert (result.code, (run.path / "ensemble" / "model.pt").exists()) == (1, False)
    assert result.err.endswith(f"leave one of them out; take one network: lctprune select {run.path}\n"), result.err


def test_an_ensemble_is_the_weighted_sum(make_network: MakeNetwork) -> None:
    network, x = make_network().eval(), torch.randn(5, 1, 8, 8)
    together = lct.EnsembleNetwork(network, [0, 2], [0.3, 0.7]).eval()
    with torch.no_grad():
        exits = [output.softmax(1) for output in network.exits(x)]
        torch.testing.assert_close(together(x).softmax(1), 0.3 * exits[0] + 0.7 * exits[2])
        plain = lct.EnsembleNetwork(network, [0, 1, 2])(x)
    torch.testing.assert_close(plain.softmax(1), sum(exits) / 3)
    for arguments, words in (
        (([2, 0],), "ascending"),
        (([0, 5],), "0 to 2"),
        (([0, 1], [0.5]), "2 numbers"),
        (([0, 1], [-1.0, 2.0]), "0 or more"),
        (([0, 1], [0.5, 0.6]), "sum 1"),
    ):
        with pytest.raises(NetworkError, match=words):
            lct.EnsembleNetwork(network, *arguments)


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_an_ensemble_from_the_command_line(run: lct.Run, cli: Cli) -> None:
    document = cli("ensemble", run.path, "--json").document
    network, test = lct.load_network(run.path), run.load_data().test
    exits, weights = zip(*((each["exit"], each["weight"]) for each in document["exits"]), strict=True)
    x, y = next(test.batches(18))
    together = lct.EnsembleNetwork(network, exits, weights).eval()
    with torch.no_grad():
        outputs = together(x)
    assert document["test"]["accuracy"] == pytest.approx((outputs.argmax(1) == y).double().mean().item())
    assert document["selected"]["flops"] == lct.count_flops(together, x[:1])
    assert document["tried"] == 4
    folder = Path(document["folder"])
    loaded = torch.jit.load(folder / "model.pt")
    for batch in (1, 3, 18):
        torch.testing.assert_close(loaded(x[:batch]), outputs[:batch], rtol=1e-3, atol=1e-3)
    assert json.loads((folder / "model.json").read_text())["exits"] == document["exits"]
    best = document["test"]["best_exit"]
    assert best["exit"] == max(range(3), key=lambda exit: (document["candidates"][exit]["accuracy"], -exit))
    with torch.no_grad():
        alone = network.exits(x)[best["exit"]].argmax(1) == y
    ours = outputs.argmax(1) == y
    assert (best["only_ensemble"], best["only_exit"]) == (int((ours & ~alone).sum()), int((alone & ~ours).sum()))
    assert best["p_value"] == mcnemar(best["only_ensemble"], best["only_exit"])
    said = cli("ensemble", run.path, "--budget-flops", "150%").out
    gained = "better" if best["only_ensemble"] > best["only_exit"] else "worse"
    verdict = gained if best["p_value"] < 0.05 else "not shown to be better"
    assert f"\nOn test, against {best['name']}, the best exit by validation of no more FLOPs: {verdict} (" in said
    *_, command = re.findall(r"Next, predict with it: lctprune (predict [^;]*);", said)
    predicted = cli(*shlex.split(command))
    assert (predicted.code, predicted.out.count("\n")) == (0, 1)
    nothing = cli("ensemble", run.path, "--budget-flops", "1%", "--json")
    assert (nothing.code, json.loads(nothing.out)["misses"]["flops"] > 1) == (3, True)
    assert json.loads(nothing.out)["error"].endswith(f"one network: lctprune select {run.path} --budget-flops 1%")


def test_ensembles_stand_beside_added_networks_with_numbers_of_their_own(
    run: lct.Run, cli: Cli, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    dense = lct.densify(tmp_path / "run", epochs=1)
    document = cli("ensemble", tmp_path / "run", "--out", tmp_path / "ensemble", "--json").document
    numbers = [each["exit"] for each in document["candidates"]]
    assert len(set(numbers)) == len(numbers)
    added = {each.number: each for each in members_of(lct.Run(tmp_path / "run")) if each.run.path == dense.path}
    assert added
    found = {each["exit"]: each for each in document["candidates"]}
    measured = {each.exit: each for each in lct.measure_run(tmp_path / "run")}
    for number, member in added.items():
        assert (found[number]["name"], found[number]["accuracy"]) == (member.name, measured[number].accuracy)
    assert " + " in document["selected"]["name"]
    assert document["selected"]["exit"] > max(added)
    progressive = cli(
        "progressive", tmp_path / "run", "--budget-flops", "95%", "--out", tmp_path / "p", "--json"
    ).document
    assert progressive["candidates"][-1]["exit"] > max(added)
