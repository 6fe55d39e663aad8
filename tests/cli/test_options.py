"""Options of the command line are the fields of the settings, with their defaults, choices and help."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer.main
from rich.console import Console

import lctprune as lct
from lctprune.cli.console import print_table
from lctprune.cli.main import app
from lctprune.cli.wording import with_options
from lctprune.config.data import DataConfig
from lctprune.config.fields import types_of
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig

Cli = Callable[..., Any]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {option.name: option for option in COMMANDS["train"].params}
RECORDS = ("num_outputs", "in_channels", "image_size", "steps", "features", "vocabulary")  # the data says them
UNSET = ("groups", "matching", "distill", "critic_period")  # None unless given


def fields() -> list[tuple[type, dataclasses.Field[Any], str]]:
    found = []
    for config in (DataConfig, NetworkConfig, TrainConfig):
        for field in dataclasses.fields(config):
            if field.metadata["panel"] and not (config is NetworkConfig and field.name in RECORDS):
                found.append((config, field, "data" if (config, field.name) == (DataConfig, "name") else field.name))
    return found


@pytest.mark.parametrize(
    ("config", "field", "name"), fields(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_option_of_train_is_a_field(config: type, field: dataclasses.Field[Any], name: str) -> None:
    option = OPTIONS[name]
    assert option.opts == [f"--{name.replace('_', '-')}"]
    assert option.secondary_opts == []  # no --no- form
    assert option.help.startswith(field.metadata["help"])
    assert option.rich_help_panel == field.metadata["panel"]
    default = None if name in UNSET or field.default is dataclasses.MISSING else field.default
    assert option.default == default
    if get_origin(types_of(config)[field.name]) is Literal:
        choices = get_args(types_of(config)[field.name])
        assert option.type_descriptor.annotation == Literal[choices]  # which completion offers
        assert all(choice in f"{option.help} {option.metavar}" for choice in choices)  # --help shows them all


def test_settings_without_a_heading_are_no_options() -> None:
    assert not {"exit", "cuts", "num_outputs"} & set(OPTIONS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_fits_into_80_columns(command: str, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = cli(command, "--help")
    assert result.code == 0
    assert max(len(line) for line in result.out.splitlines()) <= 80
    assert "…" not in result.out
    shown = re.sub(r"[\s│]", "", result.out)
    for option in COMMANDS[command].params:
        assert all(flag in result.out for flag in option.opts if flag.startswith("--"))
        assert all(re.sub(r"\s", "", each) in shown for each in re.findall(r"\S*\[.*?\]", option.help or ""))
    assert all(re.sub(r"\s", "", each) in shown for each in re.findall(r"\[.*?\]", COMMANDS[command].help or ""))


def test_a_narrow_table_leaves_out_columns_and_cuts_none(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"name": "layer1.0.conv1", "FLOPs": "1234567", "params": "7654321", "size": "12.3 MiB"}
    for width in range(15, 60):
        print_table(Console(width=width), [row, row], dispensable=("size", "params", "FLOPs"), left=["name"])
        heading, *lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        shown = heading.split()
        assert shown == list(row)[: len(shown)]  # the least important went first
        assert lines[0].split() == [part for name in shown for part in row[name].split()]
        assert (len(shown) == len(row)) == (width >= 42)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "resnet", "--budget-flops", "60%"), "it is an option of select, compress, "),
        (("evaluate", "--budget-size", "5MB"), "it is an option of select, ensemble"),
        (("report", "--budget", "60%"), "--budget-flops, "),
        (("select", "--budget", "60%"), "Possible options: --budget-flops"),
        (("densify", "--keep", "70%"), "it is an option of train, narrow"),
        (("train", "resnet", "--epoch", "3"), "(Possible options: --epochs)"),
        (("train", "resnet", "--batchsize", "8"), "(Possible options: --batch-size)"),
        (("train", "resnet", "--nosuchthing"), "No such option: --nosuchthing"),
        (("train",), "such as resnet"),
    ],
)
def test_an_option_of_another_command_is_named_with_it(arguments: tuple[str, ...], words: str, cli: Cli) -> None:
    result = cli(*arguments)
    assert (result.code, words in result.err) == (2, True), result.err


def library_texts() -> Iterator[tuple[str, str]]:
    """Yield the texts in the library's code, with their places: no docstrings, no help of settings."""
    for path in Path(lct.__file__).parent.rglob("*.py"):
        if path.is_relative_to(Path(lct.__file__).parent / "config"):  # whose help is of options
            continue
        tree = ast.parse(path.read_text())
        docstrings = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
        for each in ast.walk(tree):
            if isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in docstrings:
                yield f"{path.name}:{each.lineno}", each.value


def test_errors_name_settings_in_python_and_options_on_the_command_line() -> None:
    # a command that is to be copied is a list of words, each of which is a text of its own
    assert not [(place, text) for place, text in library_texts() if re.search(r"--[a-z]", text) and " " in text]
    quoted = "give `resize=pad`, `freeze_main=True`, no `lr`, `Budget(parameters='60%')` or `name=a b.csv`, `other=1`"
    shown = "give --resize pad, --freeze-main, no --lr, --budget-params 60% or --data a b.csv, `other=1`"
    assert with_options(quoted) == shown
    known = {name for place, text in library_texts() for name in re.findall(r"`([a-z_]+)=[^`]*`", text)}
    assert len(known) > 10
    options = {option for command in COMMANDS.values() for each in command.params for option in each.opts}
    assert not [name for name in known if with_options(f"`{name}=1`").removesuffix(" 1") not in options]
