"""Files of a run are read as a stranger's: whatever they hold, a command ends soon, in one line, and loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import lctprune as lct
from lctprune.reports import metrics_frame
from lctprune.workflows.measurements import read_measurements, read_recall
from lctprune.workflows.members import members_of, notes
from lctprune.workflows.selections import read_selection

Cli = Callable[..., Any]
SECONDS = 60  # after which a command hangs
VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2, 2.5, 1e308, -1e308, 10**12, 2**63, 10**40, 1e-320, float("nan"), float("inf")),
    *("", "x", "x" * 300, "a\u202eb\x1b[31m", "[/red]", "/dev/zero", "..", "1e308", [], {}, [1], {"a": 1}, [[]] * 3),
]
COMMANDS = ("select", "evaluate", "report", "export", "densify", "finetune")


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise an error that no code expects where a command goes on for too long."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs at {frame}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny perceptron with a densified front, a fine-tuned exit and a selection; 5 networks at least."""
    folder = tmp_path_factory.mktemp("family")
    table = folder / "t.csv"
    rows = [f"{number % 7},{number % 5},{number % 3},{number % 2}" for number in range(40)]
    table.write_text("a,b,c,y\n" + "\n".join(rows) + "\n")
    data = lct.load_data(lct.DataConfig(name=str(table)))
    recipe = lct.NetworkConfig(
        model="mlp", model_args={"width": 8, "layers": 4}, features=3, groups=2, num_outputs=2, critic="linear"
    )
    config = lct.TrainConfig(epochs=2, batch_size=16)
    run = lct.train(lct.build_network(recipe), data, config, run_dir=folder / "run")
    lct.densify(run, epochs=1)
    lct.finetune(run, 0)
    return run.path


def files_of(run: Path) -> list[Path]:
    return sorted(path.relative_to(run) for path in run.rglob("*") if path.suffix in (".json", ".csv", ".safetensors"))


def places(value: Any) -> list[tuple[Any, Any]]:
    """List every place in a JSON value: what holds it, and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in list(items) for place in [(value, key), *places(each)]]


def mutate(path: Path, choice: random.Random) -> str:
    """Change a file in one way, and say how."""
    content = path.read_bytes()
    kind = choice.choice(["value"] * 6 + ["remove", "cut", "empty", "byte", "byte", "folder", "pipe", "gone"])
    if kind in ("value", "remove") and path.suffix == ".json":
        document = json.loads(content)
        holder, key = choice.choice(places(document))
        what = f"{kind} {key}"
        if kind == "remove":
            del holder[key]
        else:
            holder[key] = choice.choice(VALUES)
            what += f" {holder[key]!r:.50}"
        path.write_text(json.dumps(document))
        return what
    if kind == "value" and path.suffix == ".csv":
        lines = content.decode().splitlines()
        line = choice.randrange(len(lines))
        cells = lines[line].split(",")
        cells[choice.randrange(len(cells))] = str(choice.choice(VALUES))
        lines[line] = ",".join(cells)
        path.write_text("\n".join(lines))
        return f"{kind} in line {line}"
    if kind in ("value", "remove", "byte"):
        end = len(content) if path.suffix != ".safetensors" else 8 + int.from_bytes(content[:8], "little")
        place = choice.randrange(end)
        path.write_bytes(content[:place] + bytes([choice.randrange(256)]) + content[place + 1 :])
        return f"byte {place}"
    path.unlink()
    if kind == "cut":
        path.write_bytes(content[: choice.randrange(len(content))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    return kind


def read_all(run: lct.Run, loaded: Path) -> int:
    """Read every file of the run, and build the network below `loaded`; return the number of networks."""
    members = members_of(run)
    for folder in {member.run.path: member.run for member in members}.values():
        if folder.path == loaded:
            lct.load_network(folder)
        metrics_frame(folder)
        folder.config.completed()
    read_measurements(run.path / "candidates.json")
    read_recall(run.path / "candidates.json")
    read_selection(run)
    return len(members)


def test_no_mutation_gives_another_error_or_a_silent_loss(cli: Cli, family: Path, tmp_path: Path) -> None:
    assert cli("select", family).code == 0
    choice = random.Random(int(os.environ.get("SEED", "1")))
    count = read_all(lct.Run(family), family)
    refused = 0
    for number in range(60):
        run = tmp_path / str(number)
        shutil.copytree(family, run)
        file = choice.choice(files_of(run))
        what = f"mutation {number} of {file}: {mutate(run / file, choice)}"
        with no_hang(), warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            try:
                networks = read_all(lct.Run(run), (run / file).parent if number % 5 == 0 else run.parent)
            except lct.LctpruneError as error:
                refused += 1
                said = str(error)
            except Exception as error:
                raise AssertionError(what) from error
            else:
                said = ""
                assert networks == count or notes(lct.Run(run)), what
            assert "\n" not in said, what
            assert len(said) < 1000, what
    assert refused > 12


def run_commands(cli: Cli, family: Path, folder: Path, *, count: int, seed: int) -> None:
    """Mutate a file, run a command, and check what it says, again and again."""
    whole, run, choice = folder / "whole", folder / "run", random.Random(seed)
    shutil.copytree(family, whole)
    assert cli("select", whole).code == 0
    wanted = len(cli("evaluate", whole, "--json").document["candidates"])
    for number in range(count):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        file = choice.choice(files_of(run))
        what = f"mutation {number} of {file}: {mutate(run / file, choice)}"
        command = choice.choice(COMMANDS)
        more = {"finetune": ("--exit", 1), "densify": ("--resume",)}.get(command, ())
        with no_hang():
            result = cli(command, run, *more, "--json")
        said = f"{what}; {command}: {result.code}\n{result.err}"
        assert result.code in (0, 1, 2, 3), said
        assert "unexpected" not in result.err, said
        assert "Traceback" not in result.err, said
        assert result.code == 0 or len(result.err.strip().splitlines()[-1]) < 1000, said
        if result.code == 0 and "candidates" in (document := json.loads(result.out)):
            assert len(document["candidates"]) >= wanted or "left out" in result.err, said


@pytest.mark.slow
def test_no_mutation_gives_a_command_a_traceback(cli: Cli, family: Path, tmp_path: Path) -> None:
    count, seed = (int(os.environ.get(name, value)) for name, value in (("MUTATIONS", "2000"), ("SEED", "2")))
    run_commands(cli, family, tmp_path, count=count, seed=seed)


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
