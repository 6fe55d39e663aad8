"""LSTM, GRU and transformer from the command line: a text and digits by rows, to a file that model.json explains."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lctprune as lct
from lctprune.data.texts.text import Vocabulary

Cli = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
NAMES = ("lstm", "gru", "transformer")
QUICK = ("--groups", 2, "--model-args", "layers=2,width=8", "--threads", 1)
SENTENCES = [
    "A good, good film!",
    "never again: it isn't good",
    "BAD",
    "",
    "word " * 40,
    "good film zebra",
    "bad . film",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of 1 to 9 words, whose label is the one word that matters."""
    folder = tmp_path_factory.mktemp("text")
    fillers = ["a", "film", "it", "was", "isn't", ",", "again", "never"]
    for name, count in (("train.tsv", 60), ("val.tsv", 12), ("test.tsv", 12)):
        lines = []
        for index in range(count):
            words = [fillers[(index * 3 + place) % len(fillers)] for place in range(index % 9)]
            words.insert(index % (len(words) + 1), ("good", "bad")[index % 2])
            lines.append(f"{' '.join(words)}\t{('good', 'bad')[index % 2]}\n")
        (folder / name).write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sequences")


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, shared: Path, cli: Cli, text: Path) -> Path:
    """Train each network on the text and select; the tests of this file share the run and do not change it."""
    path = shared / request.param
    if not path.exists():
        options = ("--epochs", 8, "--lr", 0.02, "--batch-size", 10, *QUICK)
        result = cli("train", request.param, "--data", text, "--out", path, *options)
        assert result.code == 0, result.err
        assert "(60 train, 12 validation, 12 test samples, 2 classes)" in result.err
        assert cli("select", path, "--budget-flops", "100%").code == 0
    return path


def described(run: Path) -> tuple[dict[str, Any], torch.jit.ScriptModule]:
    folder = run / "selected"
    return json.loads((folder / "model.json").read_text()), torch.jit.load(folder / "model.pt")


# --- text ------------------------------------------------------------------------------------------------------------


def test_every_exit_learns_the_word_that_matters(cli: Cli, run: Path) -> None:
    candidates = cli("evaluate", run, "--json").document["candidates"]
    network = lct.Run(run).config.network
    assert network is not None
    assert [record["name"] for record in candidates] == [*(network.cut_point_names or ()), "main network"]
    for record in candidates:
        assert record["accuracy"] > 0.9
        assert 0 < record["flops"] == 2 * record["macs"]
        assert record["latency_ms"] > 0
    assert candidates[0]["flops"] < candidates[1]["flops"]


def test_the_report_is_of_sentences(cli: Cli, run: Path) -> None:
    assert cli("report", run).code == 0
    page = (run / "report.html").read_text()
    HTMLParser().feed(page)
    assert "input sentences, 12 different words" in page
    assert "Test accuracy of" in page


def test_model_json_alone_says_how_to_feed_the_file(run: Path) -> None:
    record, model = described(run)
    feed = record["input"]
    assert record["classes"] == ["bad", "good"]
    assert feed["vocabulary"][:2] == ["<padding>", "<unknown>"]
    numbers = {word: number for number, word in enumerate(feed["vocabulary"])}
    words = [re.findall(feed["pattern"], sentence.lower())[: feed["max_length"]] for sentence in SENTENCES]
    ids = [[numbers.get(word, 1) for word in row] or [1] for row in words]
    inputs = torch.tensor([row + [0] * (max(map(len, ids)) - len(row)) for row in ids])
    predicted = [record["classes"][number] for number in model(inputs).argmax(1).tolist()]
    data = lct.Run(run).load_data()
    subnetwork = lct.load_network(run).subnetwork(record["exit"])
    encoded = Vocabulary(data.vocabulary).encode(SENTENCES, 64)
    assert torch.equal(inputs, encoded)
    assert predicted == [data.classes[number] for number in subnetwork(encoded).argmax(1).tolist()]
    assert predicted[0] == "good"
    assert predicted[2] == "bad"


@pytest.mark.parametrize("exit", [0, 1])
def test_the_file_takes_other_batches_and_lengths(exit: int, run: Path, cli: Cli, tmp_path: Path) -> None:
    document = cli("export", run, "--exit", exit, "--out", tmp_path, "--json").document
    model, network = torch.jit.load(document["model"]), lct.load_network(run)
    words = network.recipe.vocabulary
    generator = torch.Generator().manual_seed(0)
    for batch, length in ((1, 1), (1, 9), (2, 3), (5, 1), (3, 70)):
        inputs = torch.randint(1, words, (batch, length), generator=generator)
        inputs[-1, (length + 1) // 2 :] = 0  # padding
        assert_close(model(inputs), network.exits(inputs)[exit])
        inputs[0] = 0  # nothing but padding
        assert_close(model(inputs), network.exits(inputs)[exit])
        assert model(inputs).isfinite().all()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_words_that_are_cut_off_change_the_run(cli: Cli, text: Path, tmp_path: Path) -> None:
    for name, options in (("whole", ()), ("cut", ("--max-length", 2))):
        result = cli("train", "gru", "--data", text, "--out", tmp_path / name, "--epochs", 1, *options, *QUICK)
        assert result.code == 0, result.err
    whole, cut = (lct.Run(tmp_path / name) for name in ("whole", "cut"))
    assert whole.metrics[0]["exit0_train_loss"] != cut.metrics[0]["exit0_train_loss"]
    assert cli("select", cut.path).code == 0
    assert described(cut.path)[0]["input"]["max_length"] == 2
    assert (cut.load_data().example.shape[1], cut.config.network.steps) == (2, 2)


def test_the_vocabulary_is_the_runs(cli: Cli, text: Path, tmp_path: Path) -> None:
    result = cli("train", "lstm", "--data", text, "--out", tmp_path / "run", "--epochs", 1, *QUICK)
    assert result.code == 0, result.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["network"]["vocabulary"] == len(config["data"]["vocabulary"]) == 12
    config["data"]["vocabulary"][5] = "other"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    refused = cli("evaluate", tmp_path / "run")
    assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "vocabulary was" in refused.err


# --- digits by rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_digits_by_rows_from_training_to_a_file(name: str, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "run"
    options = ("--data", "digits-rows", "--out", path, "--epochs", 3, "--lr", 0.02, "--groups", 2, "--threads", 1)
    trained = cli("train", name, *options, "--model-args", "layers=2,width=16", "--json").document
    assert min(record["accuracy"] for record in trained["candidates"]) > 0.3  # of ten classes
    document = cli("select", path, "--budget-params", "100%", "--json").document
    assert cli("report", path).code == 0
    assert "sequences of 8 numbers per step" in (path / "report.html").read_text()
    record, model = described(path)
    feed = record["input"]
    assert feed["shape"] == ["batch", "time", 8]
    assert record["classes"] == list("0123456789")
    network, data = lct.load_network(path), lct.Run(path).load_data()
    exit = document["selected"]["exit"]
    inputs, targets = next(data.test.batches(1000))
    expected = (network.exits(inputs)[exit].argmax(1) == targets).double().mean().item()
    assert document["test_accuracy"] == pytest.approx(expected)
    for batch, steps in ((1, 1), (4, 8), (2, 13)):
        sample = torch.randn(batch, steps, 8)
        sample[-1, (steps + 1) // 2 :] = 0
        assert_close(model(sample), network.exits(sample)[exit])
        sample[0] = 0
        assert_close(model(sample), network.exits(sample)[exit])


# --- what does not go together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("lstm", "--data", "digits"), 2, "for images there are resnet18"),
        (("mlp", "--data", "digits"), 2, "mlp takes a table"),
        (("resnet", "--data", "digits-rows"), 2, "for sequences there are lstm"),
        (("lstm", "--data", "digits-rows", "--critic", "paper"), 1, "tail or linear"),
        (("lstm", "--data", "digits-rows", "--critic-pool", "first"), 2, "'mean', 'last'"),
        (("lstm", "--data", "digits-rows", "--model-args", "layers"), 2, "name=value"),
        (("lstm", "--data", "digits-rows", "--model-args", "hidden=3"), 2, "does not take hidden"),
        (("lstm", "--data", "digits-rows", "--model-args", "layers=0"), 2, "at least 1"),
        (("lstm", "--data", "digits-rows", "--max-length", "0"), 2, "max_length is 0"),
        (("transformer", "--data", "digits-rows", "--model-args", "width=10,heads=4"), 2, "multiple of 4 heads"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_bad_input_gets_one_line(
    arguments: tuple[str, ...], code: int, words: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("train", *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert words in result.err
    assert not (tmp_path / "runs").exists()


def test_settings_of_sequences_change_what_is_learnt(cli: Cli, tmp_path: Path) -> None:
    base = {"--data": "digits-rows", "--epochs": 1, "--groups": 2, "--batch-size": 256, "--threads": 1}
    variants: dict[str, dict[str, object]] = {
        "base": {"--model-args": "layers=2,width=8"},
        "adamw": {"--model-args": "layers=2,width=8", "--optimizer": "adamw"},
        "sgd": {"--model-args": "layers=2,width=8", "--optimizer": "sgd"},
        "last": {"--model-args": "layers=2,width=8", "--critic-pool": "last"},
        "linear": {"--model-args": "layers=2,width=8", "--critic": "linear"},
        "wider": {"--model-args": "layers=2,width=9"},
        "dropout": {"--model-args": "layers=2,width=8,dropout=0.9"},
    }
    losses = {}
    for name, options in variants.items():
        arguments = [item for option in (base | options).items() for item in option]
        result = cli("train", "lstm", "--out", tmp_path / name, *arguments)
        assert result.code == 0, result.err
        losses[name] = lct.Run(tmp_path / name).metrics[0]["exit0_train_loss"]
    assert losses.pop("adamw") == losses["base"]  # what auto means for sequences
    assert len(set(losses.values())) == len(losses), losses
    recorded = lct.Run(tmp_path / "dropout").config
    assert recorded.network.model_args == {"layers": 2, "width": 8, "dropout": 0.9}
    assert (recorded.training.optimizer, recorded.training.lr) == ("adamw", 0.001)
    assert lct.Run(tmp_path / "sgd").config.training.lr == 0.2
