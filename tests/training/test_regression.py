"""Regression on a table: R2 against a hand calculation, and end to end through the library and the command line."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn.metrics import r2_score
from torch import Tensor, nn

import lctprune as lct
from lctprune.measure.candidates import Z_95
from lctprune.measure.scores import score_exits
from lctprune.reports import report_page
from lctprune.workflows.model_card import candidate_record

Cli = Callable[..., Any]
TINY = {"layers": 2, "width": 16}
LINEAR = (
    "--task",
    "regression",
    "--model-args",
    "layers=2,width=16",
    "--groups",
    2,
    "--epochs",
    20,
    "--lr",
    0.01,
    "--batch-size",
    16,
)


def price(area: float, age: float) -> float:
    return 1000 + 30 * area - 50 * age


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 rows of a target that is linear in two of three columns."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("table") / "t.csv"
    lines = ["area,age,noise,price"]
    for _ in range(240):
        area, age = draw.uniform(20, 200), draw.uniform(0, 40)
        lines.append(f"{area},{age},{draw.gauss(0, 1)},{price(area, age)}")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("regression")


@pytest.fixture
def run(shared: Path, cli: Cli, table: Path) -> Path:
    """Train and select from a run, which the tests of this file share and do not change."""
    path = shared / "run"
    if not path.exists():
        result = cli("train", "mlp", "--data", table, "--out", path, "--threads", 1, *LINEAR)
        assert result.code == 0, result.err
        assert "(173 train, 19 validation, 48 test samples, regression)" in result.err
    return path


class Given(nn.Module):
    """A network of one group whose output is its input's first columns."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.outputs]


def scores_of(predicted: Tensor, targets: Tensor) -> Any:
    network = lct.LocalCriticNetwork([Given(predicted.shape[1])])
    return score_exits(network, lct.TensorSplit(predicted, targets), batch_size=7)


# --- the figure ------------------------------------------------------------------------------------------------------


def test_r2_by_hand() -> None:
    targets, predicted = torch.tensor([[1.0], [2.0], [3.0], [6.0]]), torch.tensor([[1.0], [3.0], [3.0], [4.0]])
    scores = scores_of(predicted, targets)
    # mean 3: total 4 + 1 + 0 + 9 = 14; residual 0 + 1 + 0 + 4 = 5
    assert scores.accuracy == pytest.approx([1 - 5 / 14])
    assert scores.loss == pytest.approx([5 / 4])
    assert (scores.metric, scores.samples) == ("R2", 4)
    # its error is that of a ratio of means: of (0, 1, 0, 4) - 5/14 * (4, 1, 0, 9), over the variance of 14 / 4
    deviations = torch.tensor([-20 / 14, 9 / 14, 0, 11 / 14]) / 3.5
    assert scores.accuracy_error == pytest.approx([deviations.std().item() / 2])


@pytest.mark.parametrize("outputs", [1, 3])
def test_r2_is_scikit_learns(outputs: int) -> None:
    generator = numpy.random.default_rng(0)
    targets = generator.normal(3, 2, (50, outputs))
    predicted = targets + generator.normal(0, 1, (50, outputs))
    scores = scores_of(torch.tensor(predicted), torch.tensor(targets))
    weights = targets.var(0)  # of several outputs: the share of their summed variance
    expected = r2_score(targets, predicted, multioutput=weights) if outputs > 1 else r2_score(targets, predicted)
    assert scores.accuracy[0] == pytest.approx(expected)


def test_targets_without_a_second_dimension_are_the_same() -> None:
    targets, predicted = torch.randn(20), torch.randn(20, 1)
    assert scores_of(predicted, targets) == scores_of(predicted, targets[:, None])


def test_the_interval_of_an_r2_covers_what_other_samples_give() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(200):
        targets = torch.randn(400, 1, generator=generator)
        noise = 0.5 * torch.randn(400, 1, generator=generator)
        scores = scores_of(targets + noise, targets)
        low, high = (
            scores.accuracy[0] - Z_95 * scores.accuracy_error[0],
            scores.accuracy[0] + Z_95 * scores.accuracy_error[0],
        )
        covered += low <= 0.75 <= high
    assert covered >= 180


def test_an_r2_far_below_0_can_be_shown_and_chosen_from(run: Path) -> None:
    costs = {"macs": 1, "parameters": 1, "latency_ms": None, "size_bytes": 4, "samples": 20, "metric": "R2"}
    poor = [
        lct.Candidate(
            exit=exit, name=f"exit {exit}", accuracy=accuracy, loss=9.0, flops=flops, accuracy_error=0.3, **costs
        )
        for exit, (accuracy, flops) in enumerate([(-9.0, 2), (-8.9, 4), (-5.0, 6)])
    ]
    assert poor[2].accuracy_interval == pytest.approx((-5 - 0.3 * Z_95, -5 + 0.3 * Z_95))
    assert lct.select(poor, lct.Budget(flops=4)) is poor[1]
    assert lct.cheaper_alternative(poor, lct.Budget(), poor[1]) is poor[0]
    assert lct.cheaper_alternative(poor, lct.Budget(), poor[2]) is None
    page = report_page(lct.Run(run), poor, chosen=poor[2], test={"accuracy": -30.0, "samples": 5, "metric": "R2"})
    assert "Test R2 of exit 2: -30.0000 (5 samples)" in page


def test_the_interval_of_an_r2_ends_at_1() -> None:
    candidate = lct.Candidate(
        exit=0,
        name="x",
        accuracy=0.9,
        loss=0.1,
        flops=1,
        macs=1,
        parameters=1,
        latency_ms=None,
        size_bytes=4,
        metric="R2",
        accuracy_error=0.2,
    )
    assert candidate.accuracy_interval == (pytest.approx(0.9 - 0.2 * Z_95), 1.0)
    record = candidate_record(candidate)
    assert (record["metric"], record["accuracy_high"]) == ("R2", 1.0)


# --- end to end ------------------------------------------------------------------------------------------------------


def test_the_library_learns_a_linear_target(table: Path, tmp_path: Path) -> None:
    data = lct.load_data(lct.DataConfig(name=str(table), task="regression", target="price"))
    config = lct.NetworkConfig(model="mlp", model_args=TINY, groups=2, features=3, num_outputs=1)
    network = lct.build_network(config)
    lct.train(network, data, lct.TrainConfig(epochs=20, lr=0.01, batch_size=16), run_dir=tmp_path / "run")
    candidates = lct.evaluate(network, data.test, data.example, latency_repeats=0)
    assert all(candidate.accuracy > 0.97 for candidate in candidates)
    for candidate in candidates:
        assert candidate.metric == "R2"
        low, high = candidate.accuracy_interval
        assert low < candidate.accuracy < high <= 1
        assert candidate.loss == pytest.approx(
            (1 - candidate.accuracy) * data.test.targets.var(correction=0).item(), rel=1e-4
        )


def test_training_says_and_writes_what_it_did(cli: Cli, run: Path) -> None:
    result = cli("evaluate", run, "--threads", 1)
    assert result.code == 0
    assert " R2 " in result.out
    assert "accuracy " not in result.out.partition("*")[0]
    records = cli("evaluate", run, "--threads", 1, "--json").document["candidates"]
    assert [record["metric"] for record in records] == ["R2", "R2"]
    assert all(record["accuracy"] > 0.97 for record in records)
    assert all(record["accuracy_low"] < record["accuracy"] < record["accuracy_high"] <= 1 for record in records)
    with (run / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["metric"] for row in rows] == ["R2", "R2"]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([record["accuracy"] for record in records])
    data = lct.Run(run).load_data()
    (mean,), (std,) = data.target_normalization or ((), ())
    network = lct.load_network(run)
    with torch.no_grad():
        outputs = network.exits(torch.cat([inputs for inputs, _ in data.val.batches(64)]))
    real = data.val.targets * std + mean
    errors = [(output * std + mean - real).square().mean().sqrt().item() for output in outputs]
    assert [record["rmse"] for record in records] == pytest.approx(errors, rel=1e-4)
    assert [float(row["rmse"]) for row in rows] == pytest.approx(errors, rel=1e-4)
    assert "RMSE is in the units of the target" in result.out
    assert all(f"{error:.4g}" in result.out for error in errors)


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_model_json_gives_real_units_back(cli: Cli, run: Path) -> None:
    document = cli("select", run, "--json").document
    assert document["test_accuracy"] > 0.97
    described = json.loads((run / "selected" / "model.json").read_text())
    model = torch.jit.load(run / "selected" / "model.pt")
    assert described["input"]["columns"] == ["area", "age", "noise"]
    assert described["classes"] == []
    assert described["test"]["metric"] == "R2"
    assert described["test"]["rmse"] == document["test_rmse"] > 0
    assert described["validation"]["rmse"] == document["selected"]["rmse"]
    feed, output = described["input"], described["output"]
    raw = torch.tensor([[50.0, 10.0, 0.0], [150.0, 5.0, 1.0], [100.0, 20.0, -1.0]])
    inputs = (raw - torch.tensor(feed["mean"])) / torch.tensor(feed["std"])
    predicted = model(inputs) * torch.tensor(output["std"]) + torch.tensor(output["mean"])
    expected = [price(area, age) for area, age, _ in raw.tolist()]
    assert predicted[:, 0].tolist() == pytest.approx(expected, rel=0.1)
    assert {"mean", "std"} <= output.keys()


def test_select_and_report_speak_of_r2(cli: Cli, run: Path) -> None:
    result = cli("select", run, "--budget-params", "100%")
    assert result.code == 0, result.err
    assert "Test R2 (48 samples" in result.out
    assert f"RMSE {cli('select', run, '--json').document['test_rmse']:.4g}" in result.out.partition("Test R2")[2]
    assert cli("report", run).code == 0
    page = (run / "report.html").read_text()
    HTMLParser().feed(page)
    assert "Test R2 of" in page
    assert "0 classes" not in page
    assert "32 x 32" not in page
    assert "R2 (bars: 95% interval)" in page
    assert "R2 and loss: on the validation split, with the 95% interval of the normal distribution" in page
    assert ">accuracy</th>" not in page
    assert "validation R2" in page
    assert "validation accuracy" not in page


def test_r2_of_test_targets_that_do_not_differ_is_not_defined(cli: Cli, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"

    def write(targets: list[float]) -> None:
        table.write_text("a,y\n" + "".join(f"{row % 7},{target}\n" for row, target in enumerate(targets)))

    rows = [float(row) for row in range(40)]
    write(rows)
    data = lct.load_data(lct.DataConfig(name=str(table), task="regression"))
    (mean,), (std,) = data.target_normalization
    held_out = {round(float(target)) for target in data.test.targets[:, 0] * std + mean}
    write([5.0 if row in held_out else row for row in rows])
    run, small = tmp_path / "run", ("--model-args", "width=8", "--groups", 2, "--epochs", 1, "--batch-size", 16)
    assert cli("train", "mlp", "--data", table, "--task", "regression", "--out", run, *small).code == 0
    result = cli("select", run, "--json")
    assert "R2 is not defined" in result.err
    assert [result.document[name] for name in ("test_score", "main_test_score", "test_accuracy")] == [None] * 3
    card = json.loads((run / "selected" / "model.json").read_text())
    assert (card["test"]["score"], card["test"]["accuracy"], card["test"]["samples"]) == (None, None, 8)
    assert card["validation"]["score"] == result.document["selected"]["score"]
    assert "Test R2 (8 samples, read for this only): -, RMSE " in (text := cli("select", run).out)
    assert "; main network -, RMSE " in text
    assert cli("report", run).code == 0
    page = (run / "report.html").read_text()
    assert "is not defined on these 8 samples" in page
    assert "nan" not in page.split("<script>")[0].casefold()  # before the libraries


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_every_exit_can_be_exported(cli: Cli, run: Path, tmp_path: Path) -> None:
    document = cli("export", run, "--exit", 0, "--out", tmp_path, "--json").document
    inputs, _ = next(lct.Run(run).load_data().test.batches(5))
    expected = lct.load_network(run).exits(inputs)[0]
    torch.testing.assert_close(torch.jit.load(document["model"])(inputs), expected, rtol=1e-4, atol=1e-5)


def test_a_table_of_classes_is_learnt(cli: Cli, tmp_path: Path) -> None:
    draw = random.Random(1)
    points = [(draw.gauss(0, 1), draw.gauss(0, 1)) for _ in range(200)]
    (tmp_path / "t.csv").write_text(
        "x,y,side\n" + "\n".join(f"{x},{y},{'left' if x < y else 'right'}" for x, y in points)
    )
    small = ("--model-args", "layers=2,width=16", "--groups", 2, "--epochs", 20, "--lr", 0.01, "--batch-size", 16)
    result = cli("train", "mlp", "--data", tmp_path / "t.csv", "--out", tmp_path / "run", "--json", *small)
    assert all(record["accuracy"] > 0.8 and record["metric"] == "accuracy" for record in result.document["candidates"])


def test_the_target_decides_what_is_predicted(cli: Cli, table: Path, tmp_path: Path) -> None:
    quick = ("--task", "regression", "--epochs", 1, "--model-args", "width=8", "--groups", 2)
    for name, options in (("price", ()), ("area", ("--target", "area"))):
        assert cli("train", "mlp", "--data", table, "--out", tmp_path / name, *options, *quick).code == 0
    statistics = [lct.Run(tmp_path / name).config.data.target.mean[0] for name in ("price", "area")]
    assert statistics[0] > 1000 > statistics[1]
    assert lct.Run(tmp_path / "area").config.data.columns == ("age", "noise", "price")
    losses = [lct.Run(tmp_path / name).metrics[0]["exit0_train_loss"] for name in ("price", "area")]
    assert losses[0] != losses[1]
    refused = cli("train", "mlp", "--data", table, "--target", "nosuch", *quick)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "it has area, age, noise, price" in refused.err


def test_a_regression_without_a_table_is_refused(cli: Cli) -> None:
    result = cli("train", "resnet", "--task", "regression")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "FILE.csv" in result.err
