"""`lctprune models`."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from lctprune.cli.console import print_json, stderr, stdout
from lctprune.cli.options import JsonOption
from lctprune.errors import NetworkError


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
    from lctprune.config.network import ALIASES
    from lctprune.models.build import MODELS
    from lctprune.models.external import timm_names, torchvision_names

    kinds = {"built-in": [*ALIASES, *MODELS], "torchvision": torchvision_names(), "timm": timm_names()}
    found = {kind: [name for name in known if pattern in name] for kind, known in kinds.items()}
    if not any(found.values()):
        every = dict.fromkeys(name for known in kinds.values() for name in known)
        near = difflib.get_close_matches(pattern, [*every], n=5, cutoff=0.5)
        said = f"; near are {', '.join(near)}" if near else ""
        raise NetworkError(f"no name contains {pattern!r}{said}")
    if json:
        print_json(found)
        return
    console = stdout()
    own = found["built-in"]
    for name in own:
        console.print(f"{name} (short for {ALIASES[name]})" if name in ALIASES else name)
    for name in (each for each in found["torchvision"] if each not in own):  # built-in ones have the same names
        console.print(name)
    for name in found["timm"] if pattern else []:
        console.print(name)
    if kinds["timm"] and not pattern:
        console.print(f"and {len(kinds['timm'])} of timm: lctprune models TEXT lists those that contain TEXT")
    if not kinds["timm"]:
        stderr().print("timm is not installed: pip install 'lctprune[timm]' adds its networks, as timm/NAME.")
