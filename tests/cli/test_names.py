"""Names from files, folders and labels are shown as they are: no markup, no terminal control, no formula."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import lctprune as lct
from lctprune.utils.names import shell_word, spreadsheet_text, visible

Cli = Callable[..., Any]
HOSTILE = "=[b]x[/red] :cat: \x1b[31m\u202e\nz"  # markup, an emoji code, a colour, a reversal, a line feed, a formula
SHOWN = "=[b]x[/red] :cat: \\x1b[31m\\u202e\\nz"
NAME = HOSTILE.replace("/", "")  # for files and folders
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photos [v2]/caf\u00e9 \u6e56", "photos [v2]/caf\u00e9 \u6e56"),
        ("\u0645\u06cc\u200c\u062e \U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e \U0001f469\u200d\U0001f467"),
        (HOSTILE, SHOWN),
        ("\r\t\x9b\u2028\u2066\ufeff", "\\r\\t\\x9b\\u2028\\u2066\\ufeff"),
        ("\udcff", "\\udcff"),
    ],
)
def test_hidden_characters_are_written_out(text: str, expected: str) -> None:
    assert visible(text) == expected
    assert visible(expected) == expected


@pytest.mark.parametrize("name", ["a b", "it's", "$HOME", HOSTILE, "\\x1b", "\\'\x1b", "\udcff\x07"])
def test_a_quoted_word_is_the_word_again(name: str) -> None:
    word = shell_word(name)
    assert visible(word) == word
    echoed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert echoed == name.encode(errors="surrogateescape")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("@a", "'@a"),
        ("-x", "'-x"),
        ("+", "'+"),
        ("-1.5e3", "-1.5e3"),
        ("a=b", "a=b"),
        ("\tx", "\\tx"),
    ],
)
def test_texts_are_no_formulas(text: str, expected: str) -> None:
    assert spreadsheet_text(text) == expected


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A table with a hostile name, whose columns and classes have hostile names, too."""
    path = tmp_path / f"data{NAME}.csv"
    rows = [f'{index % 7},{index % 3},"{HOSTILE if index % 2 else "b"}"\n' for index in range(300)]
    path.write_text(f'"{HOSTILE}","@b",kind\n{"".join(rows)}')
    return path


def clean(result: Any) -> str:
    text = str(result.out + result.err)
    assert not RAW.search(text), repr(text)
    assert "Traceback" not in text
    return text


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_command_shows_names_as_they_are(cli: Cli, hostile: Path, tmp_path: Path) -> None:
    run = tmp_path / f"run{NAME}"
    shown = visible(str(run))
    train = ("train", "mlp", "--model-args", "width=8,layers=4", "--groups", 2, "--epochs", 1, "--data", hostile)
    result = cli(*train, "--out", run)
    assert result.code == 0, result.err
    text = clean(result)
    assert shown in text
    assert visible(str(hostile)) in text
    command = re.search(r"Next.*lctprune (select .*)", text)
    assert command
    copied = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command[1]}"], capture_output=True, check=True, text=True
    ).stdout.split("\0")
    assert copied[:2] == ["select", str(run)]
    for arguments in (
        ["select", run],
        ["select", run, "--out", f"{run}2"],
        ["evaluate", run],
        ["report", run],
        ["export", run, "--exit", 0],
        ["densify", run, "--epochs", 1],
        ["densify", run],  # it is there: an error
        ["finetune", run, "--exit", 0],
        ["finetune", run, "--exit", 0],
        ["export", run, "--exit", 99],
        ["report", f"{run}3"],
        ["evaluate", run, "--data", f"{hostile}3"],
        ["evaluate", run, "--model", HOSTILE],
        ["train", HOSTILE],
        ["train", "mlp", "--data", f"{hostile}3"],
        ["train", "mlp", "--data", f"{hostile}3.csv"],
        [*train, "--weights", f"{hostile}3"],
        [*train, "--out", run],
        [*train, "--split-at", HOSTILE],
        ["inspect", HOSTILE],
        ["models", HOSTILE],
        [HOSTILE],
    ):
        text = clean(cli(*arguments))
        if arguments[0] in ("select", "evaluate", "report", "densify", "finetune"):
            assert "[b]x[red]" in text
    page = (run / "report.html").read_text()
    HTMLParser().feed(page)
    assert not RAW.search(page)
    assert visible(run.name) in page
    origin = lct.Run(run / "dense").config.origin
    assert origin is not None
    with (run / "candidates.csv").open() as file:
        assert {"name", "origin"} < set(next(csv.reader(file)))
    assert json.loads(cli("select", run, "--json").out)["run"] == str(run)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_further_commands_show_names_as_they_are(cli: Cli, hostile: Path, tmp_path: Path) -> None:
    run, made = tmp_path / f"run{NAME}", tmp_path / f"made{NAME}"
    mlp = ("mlp", "--model-args", "width=8,layers=4", "--groups", 2, "--epochs", 1, "--data", hostile)
    compress = ("compress", *mlp, "--weights", run, "--budget-flops", "70%", "--out", made)
    clean(cli("train", *mlp, "--out", run))
    for code, arguments in (
        (0, ["narrow", run, "--exit", 0, "--keep", "70%", "--epochs", 1]),
        (1, ["narrow", run, "--exit", 0, "--keep", "70%", "--epochs", 1]),  # it is there
        (0, ["progressive", run, "--max-drop", 90]),
        (0, ["ensemble", run]),
        (3, ["ensemble", run, "--budget-flops", 1]),
        (0, compress),
        (1, compress),  # it is there
        (0, [*compress, "--resume"]),
        (0, ["compare", run, made, "--out", f"{run}4"]),
        (1, ["compare", run, f"{run}5"]),
        (1, ["resume", run]),  # it is trained to its end
        (1, ["resume", f"{run}5"]),
        (0, ["resume", run, "--epochs", 2]),
    ):
        result = cli(*arguments)
        text = clean(result)
        assert result.code == code, text
        assert code == 3 or "[b]x[red]" in text
    for card in (*run.rglob("model.json"), *made.rglob("model.json")):
        assert not RAW.search(card.read_text())


def test_the_errors_of_tables_and_sentences(cli: Cli, tmp_path: Path) -> None:
    table = tmp_path / "a[.csv"
    rows = "".join(f"{number},2,{'xy'[number % 2]}\n" for number in range(60))
    table.write_text(f'"{HOSTILE}",b,kind\n{rows}12\x1b]0;title\x07,1,x\n')
    result = cli("train", "mlp", "--data", table, "--out", tmp_path / "run")
    assert result.code == 1
    assert f"line 63: {SHOWN} is" in clean(result)
    result = cli("train", "mlp", "--data", table, "--target", HOSTILE * 2, "--out", tmp_path / "run")
    assert SHOWN in clean(result)
    (tmp_path / "train.tsv").write_text("a b\tx\nb a\ty\n" * 9)
    (tmp_path / "test.tsv").write_text("a\t\x1b[2J\u202e\n")
    clean(cli("train", "lstm", "--data", tmp_path, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_names_that_are_not_utf8_are_refused_before_training(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "\udcff"
    for arguments in (["--out", odd], ["--data", odd], ["--weights", odd]):
        result = cli("train", "vgg-lct", "--data", image_folder, *arguments)
        assert result.code == 2
        assert "\\udcff' is not UTF-8; rename it" in clean(result)
    folder = Path(shutil.copytree(image_folder, tmp_path / "images"))
    (folder / "train" / "red").rename(folder / "train" / "\udcfe")
    result = cli("train", "vgg-lct", "--data", folder, "--out", tmp_path / "run")
    assert result.code == 1
    assert "\\udcfe" in clean(result)
    with pytest.raises(lct.ConfigError, match="not UTF-8"):
        lct.load_data(lct.DataConfig(name=str(odd)))
    assert not (tmp_path / "run").exists()
