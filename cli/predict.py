"""`lctprune predict`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from lctprune.cli.console import print_json, printed_warnings, stderr, stdout
from lctprune.cli.options import SWITCH, JsonOption, ModelOption, PartialOption
from lctprune.errors import FAILED, ConfigError

if TYPE_CHECKING:
    from lctprune.workflows.prediction import Prediction

# between two updates of the progress, and where there is no terminal between two lines
REFRESHED_SECONDS, PLAIN_SECONDS = 0.2, 60


def predict(
    network: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_RUN",
            show_default=False,
            help="Exported file with its model.json beside it, or the folder of both; or a run directory.",
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            show_default=False,
            help="Images and folders of images; for text, files with one text per line (- is standard input; of .tsv "
            "files the label is left out); for a table, files of rows.",
        ),
    ],
    exit: Annotated[
        str | None,
        typer.Option(
            "--exit", metavar="K|NAME", help="Exit of a run, by its number or name. Default: the main network."
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, metavar="K", help="Classes to name, most probable first. Default: 5.")
    ] = None,
    model: ModelOption = None,
    partial: PartialOption = False,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code",
            metavar=SWITCH,
            help="Load a package that Inductor compiled (.aoti.pt2). It is machine code, which could do anything that "
            "you may do: only for files that you made.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Predict classes, or numbers, for images, lines of text or rows of a table.

    Inputs are prepared as validation samples were: model.json says how, or the run. Inputs that cannot be read are
    named and left out; the exit code is 1 then. An exported file is a program: give only files that you trust.

    Examples:
    lctprune predict runs/mine/selected photo.jpg photos/

    lctprune predict runs/mine --exit layer2 --top 3 --json rows.csv
    """
    from lctprune.cli.working import working
    from lctprune.data.raw_inputs import list_inputs, read_inputs
    from lctprune.workflows.prediction import TOP, prediction_record, predictions
    from lctprune.workflows.predictors import open_predictor

    with working("Loading the network"):
        predictor = open_predictor(network, exit=exit, model=model, partial=partial, trust_code=trust_code)
        if top is not None and not predictor.classes:
            raise ConfigError(f"--top is for classes, and {predictor.source} predicts numbers; leave it out")
        listing = list_inputs(inputs, predictor.expected)
    if "run" in predictor.record and not json:
        from lctprune.cli.results import note_selected
        from lctprune.runs import Run

        stderr().print(f"Predicted by {predictor.record['name']} of {predictor.source}:", soft_wrap=True)
        if exit is None and all(map(os.path.exists, inputs)):
            note_selected(Run(predictor.source), inputs)
    with printed_warnings(stderr()):
        found = predictions(predictor, read_inputs(listing, predictor.expected), top=top or TOP)
        console, has_answers = stdout(), not json and stdout().is_terminal
        records, failed = [], 0
        for each in found if has_answers else _with_progress(found, listing.total):
            failed += bool(each.problem)
            if each.problem:
                stderr().print(f"lctprune: error: {each.problem}", soft_wrap=True)
            elif not json:
                console.print(_line(each), soft_wrap=True)
            if json:
                records.append(prediction_record(each))
    if json:
        answered, left_out = ([each for each in records if ("problem" in each) is is_bad] for is_bad in (False, True))
        print_json({**predictor.record, "predictions": answered, "left_out": left_out})
    if failed:
        raise typer.Exit(FAILED)


def _line(prediction: Prediction) -> str:
    place = prediction.source if prediction.line is None else f"{prediction.source}:{prediction.line}"
    if prediction.top:
        return f"{place}: {', '.join(f'{name} {probability:.1%}' for name, probability in prediction.top)}"
    return f"{place}: {', '.join(f'{value:.6g}' for value in prediction.values)}"


def _with_progress(found: Iterable[Prediction], total: int | None) -> Iterator[Prediction]:
    """Pass predictions on, and say on stderr how many there are; where that is no terminal, once a minute."""
    console, last = stderr(), time.monotonic()
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        for done, each in enumerate(found, 1):
            if time.monotonic() - last > (REFRESHED_SECONDS if console.is_terminal else PLAIN_SECONDS):
                last, text = time.monotonic(), f"{done}{'' if total is None else f' of {total}'} predicted"
                if console.is_terminal:
                    live.update(Text(text), refresh=True)
                else:
                    console.print(text)
            yield each
