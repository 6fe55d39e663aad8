"""The command line, as a user types it: end to end on a small folder of images, and every error in one line."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lctprune as lct
from lctprune.measure.scores import score_exits
from lctprune.reports.usage import commands as remaking

Cli = Callable[..., Any]
QUICK = ("--epochs", 2, "--batch-size", 20, "--groups", 3, "--critic", "pooled", "--threads", 1)


def parse_strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture
def run(shared: Path, cli: Cli, image_folder: Path) -> Path:
    """A trained run that the tests of this file share; those that change it copy it."""
    path = shared / "run"
    if not path.exists():
        result = cli("train", "vgg-lct", "--data", image_folder, "--out", path, *QUICK)
        assert result.code == 0, result.err
    return path


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_train_tells_what_it_did(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    result = cli("train", "resnet", "--data", image_folder, "--out", tmp_path / "run", *QUICK)
    assert result.code == 0
    assert "Training resnet18 in 3 groups" in result.err
    assert "54 train, 6 validation, 18 test samples, 3 classes" in result.err
    assert "method joint" in result.err
    assert "validation accuracy" in result.err
    assert [f" {epoch}/2 " in result.err for epoch in (1, 2)] == [True, True]
    assert "main network" in result.out
    assert "1 FLOP is one multiply or one add" in result.out
    assert "lctprune select" in result.out


def test_options_of_local_critics_choose_them(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    arguments = ("train", "vgg-lct", "--data", image_folder, "--out", tmp_path / "run", *QUICK)
    result = cli(*arguments, "--distill", "0:0.5")  # the default, but given
    assert "Note: --distill is of local critics, so --method is local-critic." in result.err
    assert lct.Run(tmp_path / "run").config.training.method == "local-critic"
    again = cli(*arguments, "--resume")
    assert (again.code, "Note" in again.err) == (0, False)
    other = cli(*arguments, "--resume", "--method", "joint")
    assert_one_line(other, code=1)
    assert "method was 'local-critic', is 'joint'" in other.err


def test_train_with_json_prints_one_document(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    result = cli("train", "vgg-lct", "--data", image_folder, "--out", tmp_path / "run", "--json", *QUICK)
    document = parse_strictly(result.out)
    assert document["run"] == str(tmp_path / "run")
    assert document["split"] == "validation"
    assert [record["exit"] for record in document["candidates"]] == [0, 1, 2]


def test_every_option_of_train_reaches_the_run(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    options = {
        "--image-size": 10,
        "--augment": "crop",
        "--shift": 0.25,
        "--val-fraction": 0.2,
        "--split-at": "layer1,layer2.0",
        "--critic": "paper",
        "--critic-depth": "2,1",
        "--critic-width": "0.5,0.25",
        "--critic-pool": "last",
        "--balance": "memory",
        "--optimizer": "adamw",
        "--max-length": 9,
        "--epochs": 1,
        "--batch-size": 9,
        "--lr": 0.01,
        "--momentum": 0.8,
        "--weight-decay": 0.002,
        "--schedule": "step",
        "--warmup": 0.3,
        "--label-smoothing": 0.05,
        "--matching": "0.1:0.9",
        "--distill": "0:0.3",
        "--critic-period": 2,
        "--critic-optimizer": "adam",
        "--precision": "fp32",
        "--device": "cpu",
        "--threads": 1,
        "--seed": 7,
    }
    arguments = [item for option in options.items() for item in option]
    result = cli("train", "resnet", "--data", image_folder, "--out", tmp_path / "run", *arguments)
    assert result.code == 0, result.err
    config = lct.Run(tmp_path / "run").config.to_dict()
    recorded = {**config["network"], **config["data"]["config"], **config["training"], **config["machine"]}
    for option, value in options.items():
        expected = value.split(",") if option in ("--split-at", "--critic-depth", "--critic-width") else [value]
        actual = recorded[option.removeprefix("--").replace("-", "_")]
        assert [str(each) for each in (actual if isinstance(actual, list) else [actual])] == [
            str(each) for each in expected
        ], option
    assert config["data"]["config"]["seed"] == 7
    assert config["network"]["groups"] == 3


def test_backprop_trains_the_plain_network(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    arguments = ("--method", "backprop", "--epochs", 1, "--batch-size", 20, "--json")
    result = cli("train", "vgg-lct", "--data", image_folder, "--out", path, *arguments)
    assert [record["name"] for record in parse_strictly(result.out)["candidates"]] == ["main network"]
    assert len(lct.load_network(path).groups) == 1
    assert cli("report", path).code == 0
    assert "Trained whole, by backpropagation." in (path / "report.html").read_text()
    assert "Training vgg-lct in 1 group on" in result.err
    assert "1 epoch, batch 20" in result.err
    assert cli("train", "vgg-lct", "--method", "backprop", "--groups", 4).code == 2


def test_resume_continues_and_repeats_nothing(cli: Cli, image_folder: Path, run: Path, copied: Path) -> None:
    again = ("train", "vgg-lct", "--data", image_folder, "--out", copied, *QUICK)
    refused = cli(*again)
    assert refused.code == 1
    assert "not empty" in refused.err
    for command in (("train", "vgg-lct"), ("compress", "vgg-lct", "--weights", run, "--budget-flops", "50%")):
        early = cli(*command, "--data", image_folder / "none", "--out", copied)
        assert (early.code, "not empty" in early.err) == (1, True)  # before the data is read
    before = (copied / "metrics.csv").read_bytes()
    assert cli(*again, "--resume").code == 0
    assert (copied / "metrics.csv").read_bytes() == before
    other = cli(*again, "--resume", "--lr", 0.5)
    assert other.code == 1
    assert "another training (lr was" in other.err
    model = cli("train", "resnet", "--data", image_folder, "--out", copied, *QUICK, "--resume")
    assert "was begun with another network (" in model.err
    assert "model was 'vgg-lct', is 'resnet18'" in model.err
    shifted = cli(*again, "--resume", "--shift", 0.5)
    assert "another data (shift was 0.0625, is 0.5)" in " ".join(shifted.err.split())


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_select_chooses_exports_and_explains(cli: Cli, copied: Path, image_folder: Path) -> None:
    result = cli("select", copied, "--budget-flops", "90%", "--json")
    assert result.code == 0, result.err
    document = parse_strictly(result.out)
    main = document["candidates"][-1]
    assert document["selected"]["flops"] <= 0.9 * main["flops"] == document["budget"]["flops"]
    best = max(record["accuracy"] for record in document["candidates"][:-1])
    assert document["selected"]["accuracy"] == best
    description = parse_strictly((copied / "selected" / "model.json").read_text())
    assert description["classes"] == ["blue", "green", "red"]
    assert description["input"]["shape"] == ["batch", 3, 8, 8]
    exported = torch.jit.load(copied / "selected" / "model.pt")
    data = lct.Run(copied).load_data()
    scores = score_exits(lct.load_network(copied), data.test)
    exit = document["selected"]["exit"]
    assert document["test_accuracy"] == description["test"]["accuracy"] == scores.accuracy[exit]
    assert document["main_test_accuracy"] == scores.accuracy[-1]
    inputs, targets = next(data.test.batches(18))
    correct = (exported(inputs).argmax(1) == targets).double().mean().item()
    assert correct == pytest.approx(scores.accuracy[exit])
    with (copied / "candidates.csv").open() as file:
        assert [int(row["flops"]) for row in csv.DictReader(file)] == [
            record["flops"] for record in document["candidates"]
        ]
    assert {"pareto.png", "pareto.svg", "candidates.json"} <= {path.name for path in copied.iterdir()}


def test_select_speaks_plainly(cli: Cli, copied: Path) -> None:
    result = cli("select", copied, "--budget-params", "100%", "--budget-flops", "10G")
    assert result.code == 0
    for words in (
        "Chosen:",
        "the most accurate that fits",
        "→ chosen",
        "Test accuracy (18 samples",
        "Exported:",
        "Next, predict with it: lctprune predict",
        "model.json",
    ):
        assert words in result.out


def test_select_reuses_what_was_measured_until_the_checkpoint_changes(cli: Cli, copied: Path) -> None:
    cli("select", copied)
    document = json.loads((copied / "candidates.json").read_text())
    document["candidates"][0]["latency_ms"] = 12345.0
    (copied / "candidates.json").write_text(json.dumps(document))
    assert "12345.00 ms" in cli("select", copied).out
    assert "12345.00 ms" not in cli("evaluate", copied).out
    (copied / "candidates.json").write_text("broken")
    assert cli("select", copied).code == 0


@pytest.mark.parametrize(
    "budget",
    [
        ("--budget-flops", "1k"),
        ("--budget-macs", "1"),
        ("--budget-params", "0.1%"),
        ("--budget-latency-ms", "1e-9"),
        ("--budget-flops", "100%", "--budget-params", "5"),
    ],
)
def test_nothing_fits(budget: tuple[str, ...], cli: Cli, run: Path) -> None:
    result = cli("select", run, *budget, "--json")
    assert result.code == 3
    assert "the nearest is" in result.err
    document = parse_strictly(result.out)
    assert document["exit_code"] == 3
    assert document["nearest"] in document["error"]
    assert all(factor > 1 for factor in document["misses"].values())
    assert not (run / "selected").exists()


@pytest.mark.parametrize("value", ["1e-400", "1e307%"])
def test_budgets_beyond_numbers_are_refused(value: str, cli: Cli, run: Path) -> None:
    assert_one_line(cli("select", run, "--budget-flops", value), code=2)


@pytest.mark.parametrize("option", ["--budget-flops", "--budget-macs", "--budget-params", "--budget-latency-ms"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "abc", ""])
def test_budgets_that_mean_nothing_are_refused(option: str, value: str, cli: Cli, run: Path) -> None:
    result = cli("select", run, f"{option}={value}")
    assert_one_line(result, code=2)
    assert repr(value) in result.err


def test_evaluate_measures_under_other_conditions(cli: Cli, copied: Path) -> None:
    result = cli("evaluate", copied, "--latency-batch", 4, "--threads", 3, "--json")
    document = parse_strictly(result.out)
    assert all(record["latency_batch"] == 4 and record["latency_ms"] > 0 for record in document["candidates"])
    assert json.loads((copied / "candidates.json").read_text())["conditions"]["threads"] == 3


def test_report_is_one_page_that_knows_the_selection(cli: Cli, copied: Path) -> None:
    assert cli("report", copied).code == 0
    plain = (copied / "report.html").read_text()
    assert "Test accuracy" not in plain
    assert "On the validation split" in plain
    cli("select", copied, "--budget-flops", "90%")
    assert parse_strictly(cli("report", copied, "--json").out)["report"] == str(copied / "report.html")
    page = (copied / "report.html").read_text()
    HTMLParser().feed(page)
    assert "Test accuracy" in page
    assert "<svg" in page
    assert "On the test split, 18 samples, of which" in page
    assert page.count("data:image/png") == 6  # validation images
    predict, code, commands = (unescape(text) for text in re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL))
    assert predict == f"lctprune predict {copied / 'selected'} photo.jpg"
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code, names)
    assert names["names"][0] in lct.Run(copied).config.data.classes
    assert commands.splitlines()[-1].startswith(f"lctprune report {copied}")


@pytest.mark.parametrize(
    ("trained", "chosen", "expected"),
    [
        (
            "train m --out {0} --seed 1",
            "select {0} --prefer best",
            ["train m --seed 1 --out {1}", "select {1} --prefer best"],
        ),
        ("train m", "select --prefer best", ["train m --out {1}", "select {1} --prefer best"]),
        ("train m --out={0}", "select --prefer best {0}", ["train m --out {1}", "select --prefer best {1}"]),
        ("compress m --resume", "resume {0}", ["compress m --out {1}"]),
    ],
)
def test_a_run_is_made_again_in_a_folder_of_its_own(
    copied: Path, trained: str, chosen: str, expected: list[str]
) -> None:
    folder = f"{copied}-again"
    config = json.loads((copied / "config.json").read_text())
    config["command"] = ["/usr/bin/lctprune", *trained.format(copied).split()]
    (copied / "config.json").write_text(json.dumps(config))
    card = {"command": ["lctprune", *chosen.format(copied).split()]}
    wanted = [f"lctprune {each.format(copied, folder)}" for each in (*expected, "report {1}")]
    assert remaking(lct.Run(copied), card) == wanted
    epochs = config["training"]["epochs"]
    (copied / "config.json").write_text(json.dumps({**config, "epochs_before": [1, 7]}))
    longer = [f"lctprune resume {folder} --epochs {count}" for count in (7, epochs)]
    assert remaking(lct.Run(copied), card) == [*wanted[:1], *longer, *wanted[1:]]


@pytest.mark.parametrize(("task", "shown"), [("classification", "Confusion matrix"), ("regression", "Predictions")])
def test_report_of_a_table_and_of_a_run_whose_data_is_gone(
    cli: Cli, table_run: Callable[..., lct.Run], task: str, shown: str
) -> None:
    run = table_run(task=task)
    assert cli("report", run.path).code == 0
    page = (run.path / "report.html").read_text()
    assert f"<h3>{shown}</h3>" in page
    assert "<img" not in page
    Path(run.config.data.config.name).unlink()  # type: ignore[union-attr]
    result = cli("report", run.path)
    assert result.code == 0
    assert result.err.count("\n") == 1
    assert "Note: the page shows no answers: " in result.err
    assert "Answers of" not in (run.path / "report.html").read_text()


def test_a_broken_test_image_leaves_the_last_selection_whole(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(image_folder, tmp_path / "images"))
    path = tmp_path / "run"
    assert cli("train", "vgg-lct", "--data", folder, "--out", path, *QUICK).code == 0
    assert cli("select", path, "--budget-flops", "50%").code == 0
    before = {name: (path / "selected" / name).read_bytes() for name in ("model.pt", "model.json")}
    (folder / "test" / "red" / "0.png").write_bytes(b"broken")
    result = cli("select", path)
    assert result.code == 1
    assert "0.png" in result.err
    assert "Traceback" not in result.err
    assert before == {name: (path / "selected" / name).read_bytes() for name in before}


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_export_any_exit(cli: Cli, copied: Path, tmp_path: Path) -> None:
    result = cli("export", copied, "--exit", 0, "--out", tmp_path / "deployed", "--json")
    document = parse_strictly(result.out)
    assert document["model"] == str(tmp_path / "deployed" / "model.pt")
    inputs = lct.Run(copied).load_data().example
    expected = lct.load_network(copied).exits(inputs.contiguous())[0]
    torch.testing.assert_close(torch.jit.load(document["model"])(inputs), expected, rtol=1e-3, atol=1e-3)
    assert document["test_accuracy"] is None  # the test split is for what was selected
    (copied / "selected").mkdir()
    (copied / "selected" / "model.json").write_text("{}")
    assert "holds the chosen one" not in cli("export", copied).err  # that is damaged, or of another checkpoint
    assert cli("select", copied, "--budget-flops", "60%").code == 0
    plain = cli("export", copied)
    assert plain.code == 0
    assert plain.out.startswith(f"Wrote main network: {copied}")
    chosen = json.loads((copied / "selected" / "model.json").read_text())["exit"]
    note = f"{copied / 'selected'} holds the chosen one: lctprune export {copied} --exit {chosen}"
    assert plain.err.endswith(f"{note}\n")
    assert cli("export", copied, "--format", "torchscript,state-dict").err.endswith(
        f"{note} --format torchscript,state-dict\n"
    )
    assert (copied / "exports" / "exit2" / "model.pt").exists()
    assert_one_line(cli("export", copied, "--exit", 9), code=1)
    assert_one_line(cli("export", copied, "--format", "gguf"), code=2)


def test_the_newest_run_is_the_default(cli: Cli, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(cli("select"), code=1)
    (tmp_path / "runs").mkdir()
    copied.rename(tmp_path / "runs" / "mine")
    assert parse_strictly(cli("select", "--json").out)["run"] == "runs/mine"
    newer = Path(shutil.copytree("runs/mine", "runs/newer", ignore=shutil.ignore_patterns("selected")))
    record = json.loads((newer / "config.json").read_text()) | {"created": "2100-01-01T00:00:00+00:00"}
    for command, state in (("train", "only at epoch 2 of 9"), ("compress", "a compression that is not finished")):
        training = record["training"] | ({"epochs": 9} if command == "train" else {})
        changed = record | {"command": ["lctprune", command, "vgg-lct"], "training": training}
        (newer / "config.json").write_text(json.dumps(changed))
        assert f"Note: taking runs/mine; runs/newer is newer, but {state}.\n" in cli("evaluate").err


def test_inspect_adds_up(cli: Cli) -> None:
    document = parse_strictly(cli("inspect", "resnet", "--image-size", 32, "--groups", 2, "--json").out)
    assert math.isclose(sum(group["flops"] for group in document["groups"]), 2 * 555.4e6, rel_tol=1e-3)
    assert (
        "9 possible cut points, for --split-at: maxpool, layer1.0, layer1"
        in cli("inspect", "resnet", "--critic", "pooled").out
    )


def assert_one_line(result: Any, *, code: int) -> None:
    assert result.code == code
    assert result.out == ""
    assert result.err.startswith("lctprune: error: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "nosuch"), 2, "known are resnet"),
        (("train",), 2, "MODEL"),
        (("trian",), 2, "trian"),
        (("train", "resnet", "--nosuch"), 2, "--nosuch"),
        (("train", "resnet", "--epochs", "x"), 2, "'--epochs': it must be a whole number"),
        (("train", "resnet", "--lr", "x"), 2, "'--lr': it must be a number"),
        (("predict", "a", "b", "--top", "0"), 2, "'--top': it must be 1 or more"),
        (("predict", "photo.jpg"), 2, "a run or an exported file"),
        (("train", "resnet", "width=8"), 2, "arguments of the network are given as --model-args width=8"),
        (("train", "resnet", "--epochs", "0"), 2, "at least 1"),
        (("train", "resnet", "--matching", "2"), 2, "between 0 and 1"),
        (("train", "resnet", "--critic", "x"), 2, "'tail'"),
        (("train", "resnet", "--critic-depth", "x"), 2, "whole numbers"),
        (("train", "resnet", "--groups", "0"), 2, "at least 1"),
        (("train", "resnet", "--groups", "40"), 2, "ask for at most --groups 10"),
        (("train", "resnet", "--split-at", "nosuch"), 2, "possible cut points are"),
        (("train", "resnet", "--method", "x"), 2, "backprop"),
        (("train", "resnet", "--device", "tpu"), 2, "cpu"),
        (("train", "resnet", "--split-at", "layer1,layer1"), 2, "layer1"),
        (("train", "resnet", "--method", "joint", "--matching", "1"), 2, "--matching 1 changes nothing with --method"),
        (("train", "resnet", "--method", "backprop", "--distill", "0"), 2, "--distill 0 changes nothing"),
        (("train", "resnet", "--method", "backprop", "--balance", "time"), 2, "--balance time changes nothing"),
        (
            ("train", "resnet", "--model-args", "width=8", "--image-size", "224"),
            2,
            "at least 16 channels for images of",
        ),
        (("train", "resnet", "--model-args", "width=abc"), 2, "width is 'abc'; it must be a number"),
        (("train", "mypkg/nets.py:small"), 2, "there is no file mypkg/nets.py"),
        (("train", "resnet", "--data", "nosuch"), 2, "neither a folder"),
        (("train", "resnet", "--data", "cifar10", "--data-dir", "nosuch"), 1, "--download"),
        (("train", "resnet", "--resume"), 1, "--out"),
        (("select", "nosuch"), 1, "not a run directory"),
        (("evaluate", "nosuch"), 1, "not a run directory"),
        (("report", "nosuch"), 1, "not a run directory"),
        (("export", "nosuch"), 1, "not a run directory"),
        (("inspect", "resnet", "--image-size", "0"), 2, "at least 1"),
        (("train", "resnet", "--groups", "2", "--split-at", "layer1"), 2, "give one of them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_bad_input_gets_one_line(
    arguments: tuple[str, ...], code: int, words: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    assert_one_line(result, code=code)
    assert words in result.err
    assert not (tmp_path / "runs").exists()
    if "--nosuch" not in arguments and len(arguments) > 1:
        document = parse_strictly(cli(*arguments, "--json").out)
        assert document["exit_code"] == code
        assert words in document["error"]


def test_a_text_file_among_the_images_is_named(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(image_folder, tmp_path / "images"))
    (folder / "train" / "red" / "notes.txt").write_text("hello")
    result = cli("train", "vgg-lct", "--data", folder, "--out", tmp_path / "run", *QUICK)
    assert result.code == 0, result.err
    assert "notes.txt" in result.err


def test_an_output_folder_that_cannot_be_written_is_named(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = cli("train", "vgg-lct", "--data", image_folder, "--out", tmp_path / "file" / "run", *QUICK)
    assert_one_line(result, code=1)
    assert str(tmp_path / "file" / "run") in result.err


@pytest.mark.slow
def test_flipping_and_cropping_change_what_is_learnt(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    losses = []
    for index, options in enumerate((("none",), ("crop",), ("crop-flip",), ("crop", "--shift", 0.25))):
        path = tmp_path / str(index)
        cli("train", "vgg-lct", "--data", image_folder, "--out", path, "--augment", *options, *QUICK)
        losses.append(lct.Run(path).metrics[-1]["exit0_train_loss"])
    assert len(set(losses)) == 4


def test_help_has_examples_and_version_is_shown(cli: Cli) -> None:
    for command in ("train", "select", "evaluate", "report", "export", "inspect", "models"):
        result = cli(command, "--help")
        assert result.code == 0
        assert f"lctprune {command}" in result.out
    assert cli("--version").out == f"lctprune {lct.__version__}\n"


def test_sizes_that_do_not_match_are_resized(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(image_folder, tmp_path / "images"))
    Image.new("RGB", (20, 12)).save(folder / "train" / "red" / "wide.png")
    path = tmp_path / "run"
    assert cli("train", "vgg-lct", "--data", folder, "--out", path, "--image-size", 8, *QUICK).code == 0
    assert lct.Run(path).config.network.image_size == 8


@pytest.mark.slow
def test_what_was_selected_before_training_went_on_is_said_to_be_old(
    cli: Cli, image_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    arguments = ("train", "vgg-lct", "--data", image_folder, "--out", path, *QUICK)
    assert cli(*arguments, "--epochs", 1).code == 0
    config = json.loads((path / "config.json").read_text())
    config["training"]["epochs"] = 2  # as if it had been interrupted after the first
    (path / "config.json").write_text(json.dumps(config))
    assert "is at epoch 1 of 2" in cli("select", path, "--budget-flops", "100%").err
    before = (path / "candidates.csv").read_bytes()
    assert "select again" not in cli("report", path).err
    result = cli(*arguments, "--epochs", 2, "--resume")
    assert result.code == 0, result.err
    assert f"{path / 'selected'} was made from an earlier checkpoint" in "".join(result.err.splitlines())
    assert (path / "candidates.csv").read_bytes() != before
    assert "select again" in cli("evaluate", path).err
    assert "select again" not in cli("select", path).err
    assert "select again" not in cli("evaluate", path).err


@pytest.mark.slow
def test_a_run_whose_data_is_gone_says_where_it_was(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(image_folder, tmp_path / "images"))
    assert cli("train", "vgg-lct", "--data", folder, "--out", tmp_path / "run", *QUICK).code == 0
    moved = folder.rename(tmp_path / "moved")
    result = cli("evaluate", tmp_path / "run")
    assert_one_line(result, code=1)
    assert f"was trained on data that is not in {folder}; say where it is now: --data PATH" in result.err
    for name in ("evaluate", "report"):
        assert_one_line(cli(name, tmp_path / "run", "--data", tmp_path / "nowhere"), code=2)
    for command in (["evaluate"], ["select"], ["export"], ["densify", "--epochs", 1], ["finetune", "--exit", 0]):
        result = cli(*command, tmp_path / "run", "--data", moved)
        assert result.code == 0, result.err
    (tmp_path / "run" / "candidates.json").unlink()
    assert cli("report", tmp_path / "run", "--data", moved).code == 0
    assert cli("finetune", tmp_path / "run", "--exit", 0, "--resume", "--data", moved).code == 0


def test_a_run_goes_on_with_its_data_in_another_place(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(image_folder, tmp_path / "images"))
    arguments = ("train", "vgg-lct", *QUICK, "--out", tmp_path / "run")
    assert cli(*arguments, "--data", folder).code == 0
    moved = folder.rename(tmp_path / "moved")
    assert cli(*arguments, "--data", moved, "--resume").code == 0
    next(moved.glob("train/*/*")).unlink()
    result = cli(*arguments, "--data", moved, "--resume")
    assert_one_line(result, code=1)
    assert "was begun with another data (fingerprint was" in result.err


def test_without_a_command_there_is_help_and_no_error(cli: Cli) -> None:
    result = cli()
    assert (result.code, result.err) == (2, "")
    assert "train" in result.out
