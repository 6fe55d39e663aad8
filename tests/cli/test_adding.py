"""densify, finetune and train --dense, as a user types them."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import lctprune as lct

Cli = Callable[..., Any]
TINY = ("--model-args", "width=4", "--image-size", 16, "--epochs", 1, "--batch-size", 18, "--threads", 1)


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_from_training_to_an_added_exit_in_use(trained: lct.Run, cli: Cli, tmp_path: Path) -> None:
    path = trained.path
    result = cli("densify", path, "--epochs", 1)
    assert result.code == 0, result.err
    assert f"further critics on the main network of {path}, which stays as it is; epochs: 1" in result.err
    assert "stage" in result.out
    assert " x0.5" in result.out
    assert "…" not in result.out
    document = cli("finetune", path, "--exit", 3, "--epochs", 2, "--distill", 0, "--json").document
    added = [record for record in document["candidates"] if record["origin"]]
    assert len(document["candidates"]) == 3 + len(added)
    last = max(record["exit"] for record in added)
    assert [record["origin"].endswith(", fine-tuned") for record in added if record["exit"] == last] == [True]
    assert [candidate["name"] for candidate in document["candidates"]][-1] == "main network"
    with (path / "candidates.csv").open() as file:
        assert [row["origin"] for row in csv.DictReader(file)] == [r["origin"] for r in document["candidates"]]
    # exported as any other
    exported = cli("export", path, "--exit", last, "--out", tmp_path / "out", "--json").document
    x = next(trained.load_data().test.batches(4))[0]
    alone = lct.load_network(path / "finetuned" / "exit3")
    torch.testing.assert_close(torch.jit.load(exported["model"])(x), alone(x))
    assert cli("export", path, "--json").document["model"].endswith("exit2/model.pt")  # by default the main network
    evaluated = cli("evaluate", path, "--json").document["candidates"]
    assert [record["exit"] for record in evaluated] == [record["exit"] for record in document["candidates"]]


def test_what_diverges_in_its_first_epoch_is_begun_anew(trained: lct.Run, cli: Cli) -> None:
    result = cli("finetune", trained.path, "--exit", 1, "--lr", 1e12)
    assert result.code == 1
    assert "the loss is nan at epoch 1" in result.err
    assert result.err.strip().endswith("try a smaller --lr, such as a third of 1e+12")
    assert cli("finetune", trained.path, "--exit", 1, "--lr", 0.001).code == 0
    result = cli("finetune", trained.path, "--exit", 1, "--lr", 0.002)
    assert result.code == 1
    assert "go on with --resume" in result.err


@pytest.mark.slow
def test_a_selection_stays_where_networks_are_added_and_the_run_is_copied(
    trained: lct.Run, cli: Cli, tmp_path: Path
) -> None:
    assert cli("select", trained.path, "--budget-flops", "100%").code == 0
    selected = (trained.path / "pareto.svg").read_text()
    assert "budget: at most" in selected
    assert cli("finetune", trained.path, "--exit", 0).code == 0
    assert "budget: at most" in (trained.path / "pareto.svg").read_text()
    copied = shutil.copytree(trained.path, tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(copied)
    for path in (copied, tmp_path / "link"):
        result = cli("report", path)
        assert "select again" not in result.err
        assert "<h2>Chosen" in (copied / "report.html").read_text()


@pytest.mark.slow
def test_percentages_are_of_the_main_network(trained: lct.Run, cli: Cli) -> None:
    cli("densify", trained.path, "--epochs", 1)
    data, network = trained.load_data(), lct.load_network(trained)
    main = lct.count_flops(network, data.example)
    document = cli("select", trained.path, "--budget-flops", "50%", "--json").document
    assert document["budget"] == {"flops": main / 2}
    fitting = [record for record in document["candidates"] if record["flops"] <= main / 2]
    assert document["selected"]["accuracy"] == max(record["accuracy"] for record in fitting)
    assert any(record["origin"] for record in fitting)
    result = cli("select", trained.path, "--budget-flops", "50%")
    chosen = document["selected"]["name"]
    assert f"Chosen: {chosen}," in result.out
    assert cli("report", trained.path).code == 0
    page = (trained.path / "report.html").read_text()
    assert f"Chosen: {chosen}" in page
    assert "at stage1, 0.5 x as wide" in page
    assert page.count("<td>100%</td>") == 1  # the main network's share of itself


@pytest.mark.slow
def test_dense_training_is_training_and_densify(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    for name, options in (("at once", ("--dense",)), ("apart", ())):
        arguments = ("train", "vgg-lct", "--data", image_folder, "--groups", 3, "--out", tmp_path / name, *TINY)
        document = cli(*arguments, *options, "--json").document
    assert all(not record["origin"] for record in document["candidates"])
    assert cli("densify", tmp_path / "apart").code == 0
    contents = [(tmp_path / name / "dense" / "checkpoint.safetensors").read_bytes() for name in ("at once", "apart")]
    assert contents[0] == contents[1]
    again = cli(*arguments, "--dense", "--resume", "--json").document  # nothing is left to do
    assert any(record["origin"] for record in again["candidates"])
    assert (tmp_path / "apart" / "dense" / "checkpoint.safetensors").read_bytes() == contents[1]


def test_dense_goes_on_from_wherever_it_stands(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    arguments = ("train", "vgg-lct", "--data", image_folder, "--out", tmp_path / "run", "--method", "backprop", *TINY)
    assert cli(*arguments).code == 0
    document = cli(*arguments, "--resume", "--dense", "--json").document  # not begun
    assert len(document["candidates"]) > 4
    checkpoint = tmp_path / "run" / "dense" / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.unlink()  # begun, without a finished epoch
    (checkpoint.parent / "metrics.csv").unlink()
    assert cli(*arguments, "--resume", "--dense").code == 0
    assert checkpoint.read_bytes() == whole


def test_where_no_critic_can_be_added_nothing_is_trained(cli: Cli, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b,y\n" + "\n".join(f"{i},{-i},{i % 2}" for i in range(40)))
    arguments = ("--model-args", "width=4,layers=1", "--groups", 1, "--epochs", 1, "--out", tmp_path / "run")
    result = cli("train", "mlp", "--data", table, *arguments, "--dense")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "mlp has no cut point for a further critic" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("densify", "RUN", "--resume"), 1, "nothing to resume"),
        (("densify", "RUN", "--epochs", 0), 2, "--epochs"),
        (("densify", "elsewhere"), 1, "is not a run directory"),
        (("select", "NEAR"), 1, "did you mean RUN?"),
        (("resume", "NEAR"), 1, "did you mean RUN?"),
        (("narrow", "RUN"), 2, "give the FLOPs to keep (--keep 50%), or a budget in its place (--budget-flops ...)"),
        (("compare", "RUN", "NEAR"), 1, "did you mean RUN?"),
        (("select", "RUN", "--compare", "NEAR"), 1, "did you mean RUN?"),
        (("predict", "NEAR", "x.png"), 1, "did you mean RUN?"),
        (("finetune", "RUN"), 2, "--exit says which network to fine-tune"),
        (("finetune", "RUN", "--exit", 3), 1, "has exits 0, 1, 2"),
        (("finetune", "RUN", "--exit", -1), 1, "has exits 0, 1, 2"),
        (("finetune", "RUN", "--exit", 0, "--distill", 2), 2, "between 0 and 1"),
        (("finetune", "RUN", "--exit", 0, "--lr", "nan"), 2, "lr is nan"),
        (("finetune", "RUN", "--exit", 0, "--epochs", 0), 2, "--epochs"),
        (("finetune", "RUN", "--exit", 0, "--resume"), 1, "leave out --resume"),
        (("export", "RUN", "--exit", 3), 1, "has exits 0, 1, 2"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_misuse_is_one_line(arguments: tuple[Any, ...], code: int, message: str, trained: lct.Run, cli: Cli) -> None:
    paths = {"RUN": trained.path, "NEAR": trained.path.with_name("ruin")}
    result = cli(*(paths.get(argument, argument) for argument in arguments))
    assert (result.code, result.out) == (code, "")
    assert result.err.count("\n") == 1
    assert message.replace("RUN", str(trained.path)) in result.err
    assert not (trained.path / "dense").exists()
    assert not (trained.path / "finetuned").exists()


def test_a_run_is_named_that_has_the_name_of_its_data(
    trained: lct.Run, image_folder: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(image_folder, "photos")
    shutil.copytree(trained.path, "runs/photos")
    for given, reason in (("photos", "it has no config.json"), ("photo", "it does not exist")):
        for arguments in (
            ("select", given),
            ("predict", given, "x.png"),
            ("select", "runs/photos", "--compare", given),
        ):
            result = cli(*arguments)
            assert result.code == 1
            if reason in result.err or arguments[0] != "predict":
                assert f"{given} is not a run directory ({reason}); did you mean runs/photos?" in result.err


def test_what_is_left_out_is_said(trained: lct.Run, cli: Cli) -> None:
    lct.densify(trained, epochs=1)
    trained.write_checkpoint(
        2,
        {
            name: 1.1 * tensor if tensor.is_floating_point() else tensor
            for name, tensor in trained.read_checkpoint("").items()
        },
    )
    result = cli("evaluate", trained.path)
    assert result.code == 0
    assert f"Note: {trained.path / 'dense'} was begun from another checkpoint of {trained.path}" in result.err
    assert "at stage" not in result.out
    result = cli("densify", trained.path)
    assert (result.code, result.err.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("command", "folder"), [(("densify",), "dense"), (("finetune", "--exit", "0"), "finetuned/exit0")], ids=str
)
def test_an_interrupted_one_says_how_to_go_on_and_is_whole(
    command: tuple[str, ...], folder: str, trained: lct.Run, cli: Cli
) -> None:
    arguments = [sys.executable, "-m", "lctprune", *command, str(trained.path), "--epochs", "5000", "--threads", "1"]
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where the tests run in the background
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening
    )
    checkpoint, deadline = trained.path / folder / "checkpoint.safetensors", time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("error:")) == (130, "", 1)
    assert err.endswith(f": lctprune resume {trained.path / folder}\n")
    assert "Traceback" not in err
    done = lct.Run(trained.path / folder).epochs_done
    result = cli("evaluate", trained.path)
    assert result.code == 0
    assert f"Note: {trained.path / folder} stands at epoch {done} of 5000." in result.err
    assert len(cli("evaluate", trained.path, "--json").document["candidates"]) > 3


def test_own_functions_are_executed_only_if_named(
    cli: Cli, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_mine.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    layers = [layer for width in (3, 8, 8) for layer in (nn.Conv2d(width, 8, 3, padding=1), nn.ReLU())]\n"
        "    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run, size = tmp_path / "run", TINY[2:]
    assert cli("train", "of_mine:net", "--data", image_folder, "--groups", 2, "--out", run, *size).code == 0
    for command in (("densify", run), ("finetune", run, "--exit", 0)):
        refused = cli(*command)
        assert (refused.code, refused.err.count("\n")) == (1, 1)
        assert "to execute it, name it: --model of_mine:net" in refused.err
        result = cli(*command, "--model", "of_mine:net", "--json")
        assert any(record["origin"] for record in result.document["candidates"])
