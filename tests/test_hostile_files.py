"""Files of a run are read as a stranger's: whatever they hold, a command ends soon, in one line, and loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from matplotlib.figure import Figure
from mutations import files_of, mutate, no_hang

import lctprune as lct
from lctprune.measure import latency
from lctprune.reports import metrics_frame
from lctprune.workflows.compression_record import read_record
from lctprune.workflows.measurements import read_measurements, read_recall
from lctprune.workflows.members import members_of, notes
from lctprune.workflows.selections import read_selection

Cli = Callable[..., Any]
COMMANDS = (
    *("select", "evaluate", "report", "export", "compare", "progressive", "ensemble"),
    *("densify", "finetune", "narrow", "resume", "longer", "resume added", "train"),
)
ALONE = (
    "compare",
    "progressive",
    "ensemble",
    "longer",
    "resume added",
    "train",
    "compress",
)  # which have other candidates
NETWORK_FILES = ("config.json", "checkpoint.safetensors")
MODEL = ("mlp", "--model-args", "width=8,layers=4", "--groups", "2", "--epochs", "1")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a tiny perceptron, a densified front, a fine-tuned exit and a narrowed one in it."""
    folder = tmp_path_factory.mktemp("family")
    table = folder / "t.csv"
    rows = [f"{number % 7},{number % 5},{number % 3},{number % 2}" for number in range(300)]
    table.write_text("a,b,c,y\n" + "\n".join(rows) + "\n")
    data = lct.load_data(lct.DataConfig(name=str(table)))
    recipe = lct.NetworkConfig(
        model="mlp", model_args={"width": 8, "layers": 4}, features=3, groups=2, num_outputs=2, critic="linear"
    )
    config = lct.TrainConfig(epochs=2, batch_size=128, log_every=1)
    run = lct.train(lct.build_network(recipe), data, config, run_dir=folder / "run")
    lct.densify(run, epochs=1)
    lct.finetune(run, 0)
    lct.narrow(run, 0, keep=0.7, epochs=1)
    return folder


def read_all(run: lct.Run, changed: Path | None = None) -> int:
    """Read every file of the run, and build the network of the changed one; return the number of networks."""
    members = members_of(run)
    for folder in {member.run.path: member.run for member in members}.values():
        if changed is not None and folder.path == changed.parent and changed.name in NETWORK_FILES:
            lct.load_network(folder)
        metrics_frame(folder)
        folder.config.completed()
        folder.rows_to_continue()
    read_measurements(run.path / "candidates.json")
    read_recall(run.path / "candidates.json")
    read_selection(run)
    if (run.path / "compress.json").exists():
        read_record(run.path / "compress.json")
    return len(members)


def refusal(path: Path, file: Path, networks: int) -> str:
    """Return the error that reading a mutated run raises; "" if it can be read, and then nothing was lost silently."""
    with no_hang(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run = lct.Run(path)
            assert read_all(run, path / file) == networks or notes(run)
            folder = lct.Run((path / file).parent) if file.name == "metrics.csv" else run
            rows = folder.read_metrics()
            assert len(rows[0]) == folder.epochs_done or rows[1] or caught
        except lct.LctpruneError as error:
            said = str(error)
            assert said
            assert "\n" not in said
            assert len(said) < 1000
            return said
    return ""


def test_no_mutation_gives_another_error_or_a_silent_loss(cli: Cli, family: Path, tmp_path: Path) -> None:
    family = family / "run"
    assert cli("select", family).code == 0
    choice = random.Random(int(os.environ.get("SEED", "1")))
    count, refused = read_all(lct.Run(family)), 0
    for number in range(60):
        run = Path(shutil.copytree(family, tmp_path / str(number)))
        file = choice.choice(files_of(run))
        what = f"mutation {number} of {file}: {mutate(run / file, choice)}"
        try:
            refused += bool(refusal(run, file, count))
        except Exception as error:
            raise AssertionError(what) from error
    assert refused > 9  # many values may change without harm


def arguments_of(command: str, run: Path, folder: Path) -> list[object]:
    """Return a command on a run, which may be one that `compress` made."""
    given: dict[str, list[object]] = {
        "finetune": ["--exit", 1],
        "densify": ["--resume"],
        "narrow": ["--exit", 0, "--keep", "70%", "--resume"],
        "progressive": ["--max-drop", 50, "--out", folder / "out"],
        "ensemble": ["--out", folder / "out"],
        "export": ["--exit", 3, "--out", folder / "out"],
        "select": ["--out", folder / "out"],
    }
    table, trained = folder / "family" / "t.csv", folder / "family" / "run"
    if command == "compare":
        return [command, run, trained, "--out", folder / "out", "--json"]
    if command == "train":
        return [command, *MODEL, "--data", table, "--weights", run, "--out", folder / "out", "--json"]
    if command == "compress":
        given_too = ["--weights", trained, "--budget-flops", "70%", "--critic", "linear"]
        return [command, *MODEL, "--data", table, *given_too, "--out", run, "--resume", "--json"]
    if command == "longer":
        return ["resume", run, "--epochs", 3, "--json"]
    if command == "resume added":
        return ["resume", run / "finetuned" / "exit0", "--json"]
    return [command, run, *given.get(command, ()), "--json"]


def _draw_nothing(_: Figure, file: IO[bytes], **__: Any) -> None:
    file.write(b"<svg></svg>")


def run_commands(cli: Cli, folder: Path, *, count: int, seed: int) -> None:
    """Mutate a file, read the run, run a command, and check what it says, again and again.

    A run that can be read takes a command long: only every eighth of these gets one.
    """
    whole, choice = folder / "family", random.Random(seed)
    networks = {name: read_all(lct.Run(whole / name)) for name in ("run", "compressed")}
    for number in range(count):
        for name in ("run", "out"):
            shutil.rmtree(folder / name, ignore_errors=True)
        kind = "compressed" if choice.random() < 0.1 else "run"
        run = Path(shutil.copytree(whole / kind, folder / "run"))
        file = choice.choice([Path("compress.json")] * 20 * (kind == "compressed") + files_of(run))
        what = f"mutation {number} of {file}: {mutate(run / file, choice)}"
        command = "compress" if kind == "compressed" else choice.choice(COMMANDS)
        try:
            refused = refusal(run, file, networks[kind])
            if refused or choice.random() < 1 / 8:
                check_command(cli, command, run, folder, networks[kind])
        except Exception as error:
            raise AssertionError(f"{what}; {command}") from error
        report(f"{what}; {command}; {refused}")


def report(line: str) -> None:
    if "LOG" in os.environ:
        with Path(os.environ["LOG"]).open("a") as log:
            log.write(f"{time.process_time():.1f} {line}\n")


def check_command(cli: Cli, command: str, run: Path, folder: Path, networks: int) -> None:
    file = run / "candidates.json"
    before = file.read_bytes() if file.is_file() else b""
    with no_hang():
        result = cli(*arguments_of(command, run, folder))
    said = f"{result.code}\n{result.err}"
    assert result.code in (0, 1, 2, 3), said
    assert "unexpected" not in result.err, said
    assert "Traceback" not in result.err, said
    assert result.code == 0 or len(result.err.strip().splitlines()[-1]) < 1000, said
    if result.code:
        assert not before or file.read_bytes() == before, said
    elif command not in ALONE and "candidates" in (document := json.loads(result.out)):
        assert len(document["candidates"]) >= networks or "left out" in result.err, said
    report(f"{command} {result.code} {result.err.strip()[-300:]!r}")


@pytest.mark.slow
def test_no_mutation_gives_a_command_a_traceback(
    cli: Cli, family: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(latency, "MAX_SECONDS", 0.0)  # one round of latencies, however busy the machine is
    monkeypatch.setattr(Figure, "savefig", _draw_nothing)  # which takes most of the time
    folder = Path(shutil.copytree(family, tmp_path / "family"))
    run, table = folder / "run", folder / "t.csv"
    assert cli("select", run).code == 0
    given = ("compress", *MODEL, "--data", table, "--weights", run, "--budget-flops", "70%", "--critic", "linear")
    assert cli(*given, "--out", folder / "compressed").code == 0
    count, seed = (int(os.environ.get(name, value)) for name, value in (("MUTATIONS", "300"), ("SEED", "2")))
    run_commands(cli, tmp_path, count=count, seed=seed)


@pytest.mark.parametrize("folder", ["dense", "finetuned/exit0", "narrowed/exit0-keep0.7"])
def test_a_damaged_member_is_named_and_left_out_if_one_says_so(
    folder: str, cli: Cli, family: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(family / "run", tmp_path / "run"))
    (run / "candidates.json").write_text("kept")
    whole = [member.number for member in members_of(lct.Run(run))]
    for name, content in (("config.json", b"{}"), ("checkpoint.safetensors", b"garbage"), ("config.json", None)):
        file = run / folder / name
        before = file.read_bytes()
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        for command in (
            ["evaluate", run],
            ["export", run, "--exit", 0],
            ["report", run],
            ["finetune", run, "--exit", 1],
        ):
            result = cli(*command)
            assert (result.code, str(run / folder) in result.err, "--partial" in result.err) == (1, True, True)
        assert (run / "candidates.json").read_text() == "kept"
        some = lct.Run(run, partial=True)
        assert 2 <= len(members_of(some)) < len(whole)
        assert {member.number for member in members_of(some)} < {*whole}
        assert any(str(run / folder) in note and "left out" in note for note in notes(some))
        file.write_bytes(before)
    assert [member.number for member in members_of(lct.Run(run))] == whole


@pytest.mark.parametrize("name", ["t.csv", "folder/train.tsv", "folder/train/a/x.png", "weights.pt", "run/config.json"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with no_hang(), pytest.raises(lct.LctpruneError):
        _read(path, tmp_path / name.partition("/")[0])


def _read(path: Path, folder: Path) -> None:
    if path.suffix == ".pt":
        lct.build_network(lct.NetworkConfig(model="mlp", features=3, groups=2), weights=str(path))
    elif path.suffix == ".json":
        lct.Run(folder)
    else:
        lct.load_data(lct.DataConfig(name=str(folder)))
