"""`lctprune export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lctprune.cli.console import print_json, printed_warnings, stderr, stdout
from lctprune.cli.options import DataOption, JsonOption, ModelOption, PartialOption, RunArgument

EXPORTS = "exports"  # folder in a run


def export(
    run: RunArgument = None,
    exit: Annotated[
        str | None,
        typer.Option(
            "--exit", metavar="K|NAME", help="Exit, by its number or name (layer2). Default: the main network."
        ),
    ] = None,
    format: Annotated[Literal["torchscript"], typer.Option(help="Format of the file.")] = "torchscript",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the file. Default: exports/exitK in the run.")
    ] = None,
    model: ModelOption = None,
    data: DataOption = None,
    partial: PartialOption = False,
    json: JsonOption = False,
) -> None:
    """Export one exit to a file that runs without lctprune, with a model.json that says how to feed it.

    Example:
    lctprune export runs/mine --exit 1 --out deployed
    """
    from lctprune.cli.results import measured, opened
    from lctprune.utils.files import require_writable, why_not_writable
    from lctprune.workflows.deployment import deploy, deployment_record
    from lctprune.workflows.loading import LoadedRun
    from lctprune.workflows.members import member_named

    found = opened(run, model=model, data=data, partial=partial)
    loaded = LoadedRun(found)
    remedy = "--out DIR writes elsewhere" if out is None else "choose another --out"
    require_writable(out or found.path / EXPORTS, remedy)
    kept_in = out if why_not_writable(found.path) else found.path
    candidates = measured(found, kept_in, any_latency=True, loaded=loaded)
    number = member_named(loaded, exit).number
    folder = out or found.path / EXPORTS / f"exit{number}"
    with printed_warnings(stderr()):
        deployment = deploy(found, candidates, number, folder, format=format, loaded=loaded)
    if json:
        print_json(deployment_record(deployment))
    else:
        stdout().print(f"Wrote {deployment.model} and {deployment.model_card}", soft_wrap=True)
