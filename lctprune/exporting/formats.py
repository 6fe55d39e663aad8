"""The formats of exported files: their names, suffixes, and what runs them."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from typing import Literal, get_args

from lctprune.errors import ConfigError

Format = Literal["torchscript", "pt2", "onnx", "openvino", "executorch", "aoti", "state-dict"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[Format, str] = {
    "torchscript": ".pt",
    "pt2": ".pt2",
    "onnx": ".onnx",
    "openvino": ".xml",
    "executorch": ".pte",
    "aoti": ".aoti.pt2",
    "state-dict": ".safetensors",
}
WEIGHTS_SUFFIX = ".bin"  # of the file with the weights that OpenVINO reads beside the .xml file
RUNTIMES: dict[Format, str] = {
    "torchscript": "torch",
    "pt2": "torch",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "executorch": "executorch",
    "aoti": "torch",
    "state-dict": "torch",
}
EXTRAS: dict[str, tuple[str, ...]] = {  # packages of an extra
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "executorch": ("executorch", "torchao"),
}
QUANTIZERS: dict[str, str] = {"openvino": "nncf"}  # further package of an extra, for 8-bit integers
OF_ONE_LENGTH: tuple[Format, ...] = ("executorch", "aoti")  # whose files take sequences of the example's length only
LARGEST_BATCHES: dict[Format, int] = {"executorch": 64}  # samples per call, where memory is planned for so many


def known_format(name: str) -> Format:
    """Return a file format by its name, if all that it needs is installed.

    Raises:
        ConfigError: there is no such format, or a package for it is missing.
    """
    for format in FORMATS:
        if format == name:
            require_extra(format)
            return format
    raise ConfigError(f"format {name!r} is unknown; known formats: {', '.join(FORMATS)}")


def known_formats(names: Iterable[str]) -> list[Format]:
    """Return file formats by their names, of which some may be several with commas; each format once, in this order.

    Raises:
        ConfigError: there is no such format, or a package for it is missing.
    """
    single = (name.strip() for each in names for name in each.split(","))
    return list(dict.fromkeys(known_format(name) for name in single))


def is_installed(extra: str) -> bool:
    """Tell whether all packages of an extra are installed; a name that is no extra needs none."""
    return all(importlib.util.find_spec(name) is not None for name in EXTRAS.get(extra, ()))


def is_quantizing(extra: str) -> bool:
    """Tell whether all is installed that 8-bit integers need besides an extra."""
    return extra not in QUANTIZERS or importlib.util.find_spec(QUANTIZERS[extra]) is not None


def require_extra(extra: str, *, quantizes: bool = False) -> None:
    """Require the packages of an extra, and the C++ compiler that Inductor needs; a name that is no extra needs none.

    Args:
        extra: name of the extra.
        quantizes: whether 8-bit integers are wanted.

    Raises:
        ConfigError: a package is missing, or the compiler.
    """
    if extra == "aoti":
        require_compiler()
    wanted = [*EXTRAS.get(extra, ()), *([QUANTIZERS[extra]] if quantizes and extra in QUANTIZERS else [])]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        what = f"{extra} in int8" if quantizes else extra
        raise ConfigError(f"{what} needs {', '.join(missing)}, not installed here: pip install 'lctprune[{extra}]'")


def require_compiler() -> None:
    """Require the C++ compiler that Inductor calls, without the import of Inductor, which takes seconds.

    Raises:
        ConfigError: there is none.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    named = os.environ.get("CXX", usual)
    command = [named] if sys.platform == "win32" else shlex.split(named)  # as Inductor does: it may have arguments
    fetches_one = os.environ.get("TORCH_INDUCTOR_INSTALL_GXX")  # Inductor does, by conda
    if not fetches_one and not (command and shutil.which(command[0])):
        raise ConfigError(
            f"Inductor needs a C++ compiler, and there is none named {named[:60]!r}: install {usual}, or name yours by "
            "the environment variable CXX; or take another runtime or format"
        )
