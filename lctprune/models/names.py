"""Tell a mistyped name of a network at once: by the sources of torchvision and timm, whose import takes seconds."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from pathlib import Path

from lctprune.config.network import ALIASES, is_own_function
from lctprune.errors import ConfigError

BUILT_IN = ("resnet18", "resnet34", "resnet50", "resnet101", "vgg-lct", "lstm", "gru", "transformer", "mlp")
TIMM, TRANSFORMERS = "timm/", "hf/"  # how the names of their networks begin
_REGISTERED = re.compile(r"^@register_model\b.*\n(?:(?!def ).*\n)*?def (\w+)\(", re.MULTILINE)
NEAREST = 3  # names in a message


def require_plausible(name: str) -> None:
    """Refuse the name of a network that cannot be known, without importing PyTorch.

    Raises:
        ConfigError: it is none of ours, and the sources of torchvision, or timm, do not contain it.
    """
    if name in (*ALIASES, *BUILT_IN) or is_own_function(name) or name.startswith(TRANSFORMERS):
        return
    package, bare = ("timm", name.removeprefix(TIMM)) if name.startswith(TIMM) else ("torchvision", name)
    text = _sources(package)
    if text and not re.search(rf"\b{re.escape(bare)}\b", text):
        raise unknown_model(name)


def unknown_model(name: str) -> ConfigError:
    """Return the error for a name that no network has, with the nearest names."""
    known = [*ALIASES, *BUILT_IN]
    registered = [*_registered("torchvision"), *(f"{TIMM}{each}" for each in _registered("timm"))]
    near = dict.fromkeys(difflib.get_close_matches(name, [*known, *registered], n=NEAREST))
    return ConfigError(
        f"model {name!r} is unknown; {'did you mean ' + ', '.join(near) + '? ' if near else ''}"
        f"known are {', '.join(known)}, names that `lctprune models` lists, hf/NAME, and package.module:callable"
    )


def _registered(package: str) -> list[str]:
    return _REGISTERED.findall(_sources(package))


@functools.cache
def _sources(package: str) -> str:
    """Return the text of the modules that register the classifiers of a package; "" where there are none."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    paths = [path for folder in folders or () for path in sorted(Path(folder, "models").glob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
