"""`lctprune models`."""

from __future__ import annotations

from typing import Annotated

import typer

from lctprune.cli.console import print_json, stdout
from lctprune.cli.options import JsonOption


def models(
    pattern: Annotated[
        str, typer.Argument(metavar="TEXT", show_default=False, help="Show only names that contain this.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """List the networks that can be trained by name.

    Any other goes by package.module:callable, a function that takes num_classes and returns an nn.Module.

    Example:
    lctprune models mobilenet
    """
    from lctprune.models.build import MODELS
    from lctprune.models.external import timm_names, torchvision_names

    kinds = {"built-in": list(MODELS), "torchvision": torchvision_names(), "timm": timm_names()}
    found = {kind: [name for name in known if pattern in name] for kind, known in kinds.items()}
    if json:
        print_json(found)
        return
    console = stdout()
    for kind, known in found.items():
        console.print(f"{kind} ({len(known)}): {', '.join(known) or 'none'}\n")
    if not kinds["timm"]:
        console.print("timm is not installed: pip install 'lctprune[timm]' adds its networks, as timm/NAME.")
