"""Lines of training: every number below its heading, and no more columns than the terminal has."""

from __future__ import annotations

import dataclasses
import io
import time

import pytest

import lctprune as lct
from lctprune.cli import progress as drawing
from lctprune.cli import working as long_work
from lctprune.cli.console import PlainConsole, print_notes
from lctprune.cli.progress import EpochTable, progress_line
from lctprune.utils.steps import STEPS, stepping


def progress(exits: int) -> lct.Progress:
    values = [0.5 + exit / 10 for exit in range(exits)]
    figures = {"losses": [2.0 + value for value in values], "val_accuracy": values, "val_score": values}
    return lct.Progress(
        epoch=3, epochs=10, step=20, steps=20, images_per_s=9.0, seconds_left=61.0, metric="accuracy", **figures
    )


@pytest.mark.parametrize("names", [["main network"], ["layer1", "layer2.0", "layer3", "main network"], list("abcdefg")])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_numbers_stand_below_their_headings(names: list[str], width: int) -> None:
    table = EpochTable(names, "accuracy", width)
    titles, heading = table.heading.splitlines()
    row = table.row(progress(len(names)))
    assert len(row) == len(heading) >= len(titles)
    assert row.split()[0] == "3/10"
    assert row.split()[-1] == "0:01:01"
    assert heading.split()[-2:] == ["main", "left"]
    assert titles.endswith("validation accuracy")
    assert "50.0%" in row
    assert len(row) <= width
    assert ("2.500" in row) is ("training loss" in titles) is (len(heading) <= width and "training" in titles)
    if width == 200:
        assert "2.500" in row


@pytest.mark.parametrize(("width", "left_out"), [(200, ""), (80, "samples/s"), (60, "loss"), (20, "loss")], ids=str)
def test_a_line_within_an_epoch_is_no_wider_than_the_terminal(width: int, left_out: str) -> None:
    line = progress_line(progress(6), width)
    assert len(line) <= max(width, 60)
    assert line.startswith("epoch 3/10  step 20/20")
    assert line.endswith("left 0:01:01")
    assert {"samples/s", "loss"} - {left_out} == {word for word in ("samples/s", "loss") if word in line}


def test_exits_are_left_out_evenly_where_the_terminal_is_too_narrow() -> None:
    names = [*(f"layer{index}.0" for index in range(12)), "main network"]
    table = EpochTable(names, "accuracy", 80, first=4)
    assert table.heading.split()[-10:] == ["epoch", "4", "5", "7", "9", "10", "12", "14", "main", "left"]
    assert table.legend.endswith("15 layer11.0 (the lines below have room for 8 of 13)")
    row = table.row(progress(13))
    assert len(row) == len(table.heading.splitlines()[1]) <= 80
    assert row.split()[1:-1] == ["50.0%", "60.0%", "80.0%", "100.0%", "110.0%", "130.0%", "150.0%", "170.0%"]
    assert len(EpochTable(names, "accuracy", 80, first=4, has_all=True).row(progress(13)).split()) == 15


def test_added_networks_are_called_by_their_numbers_and_a_legend_says_which_they_are() -> None:
    table = EpochTable(["layer1 x0.5", "layer2, fine-tuned", "main network"], "accuracy", 200, first=4, epochs=4000)
    titles, heading = table.heading.splitlines()
    assert heading.split() == ["epoch", *["4", "5", "main"] * 2, "left"]
    assert table.legend == "4 layer1 x0.5, 5 layer2, fine-tuned"
    row = table.row(dataclasses.replace(progress(3), epoch=4000, epochs=4000))
    assert len(row) == len(heading) >= len(titles)
    alone = EpochTable(["layer1, fine-tuned"], "accuracy", 200, first=7)
    assert (alone.legend, alone.heading.split()[-2:]) == ("7 layer1, fine-tuned", ["7", "left"])


@pytest.mark.parametrize("is_after", [False, True])
def test_the_time_left_is_not_said_again_after_an_epoch(is_after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "ESTIMATE_SECONDS", -1)
    whole = progress(2)
    step = dataclasses.replace(whole, step=2, val_accuracy=None, val_score=None)
    console = PlainConsole(file=io.StringIO(), width=80)
    drawing.show_progress([whole, step] if is_after else [step, whole], console)
    assert isinstance(console.file, io.StringIO)
    assert ("by the first 2 steps" in console.file.getvalue()) is not is_after


def test_long_work_says_what_it_does_and_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(seconds: float) -> None:
        with long_work.working("Looking for networks"):
            time.sleep(seconds)
            for _ in stepping(["layer1", "main"], lambda name: f"Converting {name}", count=2):
                time.sleep(seconds)

    work(0)
    assert not capsys.readouterr().err  # of what is over at once
    monkeypatch.setattr(long_work, "SILENT_SECONDS", 0.02)
    work(0.2)
    expected = ["Looking for networks", "Converting layer1 (1 of 2)", "Converting main (2 of 2)"]
    assert capsys.readouterr().err.splitlines() == expected
    console = PlainConsole(file=(drawn := io.StringIO()), force_terminal=True, width=80)
    with long_work._bar(console, "Looking"):
        for _ in stepping(["layer1", "main"], lambda name: f"Converting {name}", count=2):
            time.sleep(0.3)
    assert "Converting main" in drawn.getvalue()
    assert "1/2" in drawn.getvalue()
    assert not STEPS.handlers


def test_a_command_to_copy_is_never_broken_into_lines() -> None:
    console = PlainConsole(file=(shown := io.StringIO()), force_terminal=True, width=40)
    note = "latencies varied: measure again when it is quiet, with lctprune evaluate runs/x"
    print_notes(console, [note, "a note without one is wrapped at words, as is usual"])
    assert shown.getvalue().splitlines() == [
        f"Note: {note}.",
        "Note: a note without one is wrapped at ",
        "words, as is usual.",
    ]
