"""The formats of exported files: their names, suffixes, and what runs them."""

from __future__ import annotations

import importlib.util
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


def require_extra(extra: str) -> None:
    """Require the packages of an extra, and the C++ compiler that Inductor needs; a name that is no extra needs none.

    Raises:
        ConfigError: a package is missing, or the compiler.
    """
    if extra == "aoti":
        require_compiler()
    missing = [name for name in EXTRAS.get(extra, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{extra} needs {', '.join(missing)}, not installed here: pip install 'lctprune[{extra}]'")


def require_compiler() -> None:
    """Require a C++ compiler, as Inductor looks for it.

    Raises:
        ConfigError: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler  # late: it takes seconds

    try:
        get_cpp_compiler()
    except RuntimeError as error:  # whose type has moved between versions
        raise ConfigError(
            "Inductor needs a C++ compiler, and there is none: install g++, or name yours by the environment variable "
            "CXX; or take another runtime or format"
        ) from error
