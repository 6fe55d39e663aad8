"""A run is compared by its metric in everything that it writes and that reads it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import lctprune as lct
from lctprune.reports import report_page, training_curves, training_figure
from lctprune.reports.points import pareto_points
from lctprune.reports.tables import candidates_frame, metrics_frame
from lctprune.workflows.measurements import read_recall

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
CONFIG = lct.TrainConfig(epochs=1, batch_size=16, precision="fp32", distill=0)


def bce(output: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output, target, reduction="none").mean(1)


def labelled() -> lct.Data:
    inputs = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    split = lct.TensorSplit(inputs, (inputs[:, 0, :3, 0] > 0).float())
    return lct.Data(train=split, val=split, test=split, classes=())


@pytest.mark.parametrize(
    ("metric", "name", "columns"),
    [
        ("auto", "accuracy", {"val_accuracy", "val_loss"}),
        ("balanced_accuracy", "balanced accuracy", {"val_balanced_accuracy", "val_accuracy", "val_loss"}),
        ("macro-f1", "macro F1", {"val_macro_f1", "val_accuracy", "val_loss"}),
        ("map", "mAP", {"val_map", "val_accuracy", "val_loss"}),
        ("loss", "loss", {"val_accuracy", "val_loss"}),
    ],
)
def test_a_run_records_its_metric(
    metric: str, name: str, columns: set[str], make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    network, config = make_network(), dataclasses.replace(CONFIG, metric=metric)
    run = lct.open_run(network, data, config, run_dir=tmp_path / "run")
    *_, progress = lct.train_steps(network, data, run)
    candidates = lct.evaluate(network, data.val, data.example, metric=metric, latency_repeats=0)
    assert progress.metric == name
    assert progress.val_score == pytest.approx([each.score for each in candidates])
    assert progress.val_accuracy == pytest.approx([each.accuracy for each in candidates])
    recorded = json.loads((run.path / "config.json").read_text())["training"]["metric"]
    assert recorded == ("accuracy" if metric == "auto" else metric.replace("_", "-"))
    row = run.metrics[0]
    assert {key.removeprefix("exit1_") for key in row if key.startswith("exit1_val")} == columns
    column = f"val_{name.lower().replace(' ', '_')}"
    assert float(row[f"exit1_{column}"]) == pytest.approx(candidates[1].score, abs=1e-6)
    assert training_curves(metrics_frame(run), column)[1].tolist() == [float(row[f"exit1_{column}"])]
    axis = training_figure(metrics_frame(run), quantities=[column], metric=name).axes[0]
    assert name in axis.get_ylabel()
    frame = candidates_frame(candidates)
    assert set(frame["metric"]) == {name}
    assert frame["score"].tolist() == pytest.approx(progress.val_score)
    best = min if name == "loss" else max
    assert lct.select(candidates, lct.Budget()).score == best(frame["score"])
    assert [point.score for point in pareto_points(candidates, "flops") if point.on_front][-1] == best(frame["score"])
    page = report_page(run, candidates)
    assert f"{name} of main network" in page
    assert f">{name}</th>" in page


def test_multi_label_runs_are_compared_by_map(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, data = make_network(), labelled()
    run = lct.train(network, data, CONFIG, run_dir=tmp_path / "run", loss=bce)
    assert run.config.training.metric == "map"
    assert "exit0_val_map" in run.metrics[0]
    lct.train(make_network(), data, CONFIG, run_dir=tmp_path / "run", loss=bce, resume=True)
    with pytest.raises(lct.ConfigError, match="metric accuracy needs"):
        lct.train(network, data, dataclasses.replace(CONFIG, metric="accuracy"), run_dir=tmp_path / "other", loss=bce)
    bare = dataclasses.replace(data, val=lct.TensorSplit(data.val.inputs, torch.zeros(48, 3)))
    with pytest.raises(lct.DataError, match="no sample of the validation split has any label"):
        lct.train(network, bare, CONFIG, run_dir=tmp_path / "other", loss=bce)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("count", [1, 5])
def test_a_run_whose_validation_targets_do_not_differ_is_compared_by_the_loss(
    count: int, make_network: MakeNetwork, tmp_path: Path
) -> None:
    network, data = make_network(), labelled()
    val = lct.TensorSplit(data.val.inputs[:count], torch.ones(count, 3))
    data = dataclasses.replace(data, val=val)
    with pytest.warns(lct.DataWarning, match="R2 is not defined; exits are compared by their loss"):
        run = lct.train(network, data, CONFIG, run_dir=tmp_path / "run")
    assert run.config.training.metric == "loss"
    with pytest.raises(lct.ConfigError, match="R2 is not defined; give `metric=loss`"):
        lct.train(network, data, dataclasses.replace(CONFIG, metric="r2"), run_dir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_loss_that_the_run_was_not_opened_with_is_refused(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, data = make_network(), labelled()
    run = lct.open_run(network, data, CONFIG, run_dir=tmp_path / "run")
    assert run.config.training.metric == "r2"
    with pytest.raises(lct.ConfigError, match="give the loss to open_run too"):
        next(lct.train_steps(network, data, run, loss=bce))


def test_a_loss_of_ones_own_is_what_exits_are_compared_by(make_network: MakeNetwork, tmp_path: Path) -> None:
    def poisson(output: Tensor, target: Tensor) -> Tensor:
        return functional.poisson_nll_loss(output, target, reduction="none").mean(1)

    inputs = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    split = lct.TensorSplit(inputs, (inputs[:, 0, :3, 0].exp() * 2).floor())
    data = lct.Data(train=split, val=split, test=split, classes=())
    network = make_network()
    run = lct.train(network, data, CONFIG, run_dir=tmp_path / "run", loss=poisson)
    assert run.config.training.metric == "loss"
    assert not [key for key in run.metrics[0] if "accuracy" in key]
    candidates = lct.evaluate(network, data.val, data.example, loss=poisson, latency_repeats=0)
    assert lct.select(candidates, lct.Budget()) is min(candidates, key=lambda each: each.loss)
    page = report_page(run, candidates)
    assert "validation loss of main network" in page
    assert "accuracy" not in page.split("<script>")[0].lower().replace("val_accuracy", "")  # before the libraries


def test_the_metric_changes_no_weight_and_is_kept_by_what_is_added(
    cli: Any, image_folder: Path, tmp_path: Path
) -> None:
    small = ("--model-args", "width=2", "--groups", 3, "--image-size", 16, "--epochs", 1, "--batch-size", 16)
    for name, options in (("plain", ()), ("f1", ("--metric", "macro-f1"))):
        result = cli("train", "vgg-lct", "--data", image_folder, "--out", tmp_path / name, *small, *options, "--json")
        assert {each["metric"] for each in result.document["candidates"]} == {"macro F1" if options else "accuracy"}
    states = [lct.Run(tmp_path / name).read_checkpoint("") for name in ("plain", "f1")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    run = lct.Run(tmp_path / "f1")
    added = lct.finetune(run, 0)
    assert added.config.training.metric == "macro-f1"
    selected = cli("select", run.path, "--json").document
    assert {each["metric"] for each in selected["candidates"]} == {"macro F1"}
    assert selected["selected"]["score"] == max(each["score"] for each in selected["candidates"])
    card = json.loads((run.path / "selected" / "model.json").read_text())
    assert card["test"]["metric"] == "macro F1"
    assert card["test"]["score"] == pytest.approx(selected["test_score"])
    shown = cli("select", run.path)
    assert "Test macro F1" in shown.out
    assert "the best by macro F1" in shown.out
    assert cli("report", run.path).code == 0
    page = (run.path / "report.html").read_text()
    assert "Recall of each class" in page
    assert page.count(">green</th>") == 1


def test_a_run_of_an_earlier_version_has_its_kinds_metric(trained: lct.Run) -> None:
    path = trained.path / "config.json"
    document = json.loads(path.read_text())
    del document["training"]["metric"]
    path.write_text(json.dumps(document))
    old = lct.Run(trained.path)
    assert old.config.training.metric == "auto"
    candidates = lct.measure_run(old, again=True)
    assert {each.metric for each in candidates} == {"accuracy"}
    assert old.metrics[0]["exit0_val_accuracy"]
    network = lct.load_network(old)
    lct.train(
        network, old.load_data(), old.config.training, run_dir=old.path, resume=True
    )  # the field is no difference
    measured = json.loads((old.path / "candidates.json").read_text())
    for record in measured["candidates"]:  # as they were recorded
        for field in ("score", "score_low", "score_high"):
            del record[field]
    (old.path / "candidates.json").write_text(json.dumps(measured))
    assert lct.measure_run(old) == candidates


def test_classes_without_validation_samples_are_said(trained: lct.Run) -> None:
    candidates = lct.measure_run(trained)
    recall = read_recall(trained.path / "candidates.json")
    assert recall is not None
    samples = [4, 0, 6]
    exits = {number: [0.25, None, 1.0] for number in recall.exits}
    page = report_page(trained, candidates, recall=recall._replace(samples=samples, exits=exits))
    assert "No validation samples, so no recall: green." in page
    assert page.index(">blue</th>") < page.index(">red</th>")  # the lowest first
    assert "25.0%" in page
    assert "Recall of each class" not in report_page(trained, candidates)
