"""Find networks that are not built in: torchvision's, timm's, Hugging Face's, and the user's own functions.

torchvision and timm are imported where they are used, as importing them takes long.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lctprune.config.network import is_own_function
from lctprune.errors import ConfigError, LctpruneError, NetworkError, first_line
from lctprune.models.names import BUILT_IN, TIMM
from lctprune.models.transformers_models import (
    build_transformers_model,
    is_transformers_name,
    pretrained_weights,
    require_transformers,
)

Builder = Callable[..., nn.Module]
INPUTS = ("in_channels", "image_size", "features", "steps", "vocabulary")  # which only the data can provide
_ALIASES = {"num_outputs": "num_classes", "in_channels": "in_chans", "image_size": "img_size"}


def torchvision_names() -> list[str]:
    """List torchvision's classification models."""
    models = _torchvision_models()
    return list(models.list_models(module=models))


def timm_names() -> list[str]:
    """List timm's models with the prefix "timm/"; none where timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        return []
    return [f"{TIMM}{name}" for name in _timm().list_models()]


def find_builder(name: str) -> Builder | None:
    """Find the function that builds a network; None where nothing has that name.

    Raises:
        ConfigError: a user's function cannot be imported, or timm is not installed.
    """
    if is_own_function(name):
        return _own_function(name)
    if is_transformers_name(name):
        require_transformers(name)
        return functools.partial(build_transformers_model, name)
    if name.startswith(TIMM):
        _require_timm(name)
        return functools.partial(_build_timm, name.removeprefix(TIMM)) if name in timm_names() else None
    if name in torchvision_names():
        return functools.partial(_build_torchvision, name)
    return None


def call_builder(name: str, builder: Builder, settings: Mapping[str, Any], own: Mapping[str, Any]) -> nn.Module:
    """Call a builder with those of the settings that it takes.

    Args:
        name: name of the network, for messages.
        builder: function that takes `num_outputs` or `num_classes`, and maybe `in_channels` (`in_chans`), `image_size`
            (`img_size`), `features`, `steps`, `vocabulary`.
        settings: known properties of input and output.
        own: further arguments, all of which the builder must take.

    Raises:
        ConfigError: the builder takes no number of outputs, needs what is not known, or refuses an argument of `own`.
        NetworkError: the builder fails, or returns no nn.Module.
    """
    decided = {*settings, *(_ALIASES.get(setting, setting) for setting in settings)}
    refused = [key for key in own if key in decided or key.startswith("pretrained") or key == "checkpoint_path"]
    if refused:
        raise ConfigError(
            f"model arguments may not contain {', '.join(refused)}: the data decides inputs and outputs, "
            "and `weights` the weights"
        )
    try:
        parameters = inspect.signature(builder).parameters
    except ValueError as error:  # a function of Python's own
        raise ConfigError(f"{name} has no readable arguments; give a Python function that takes num_outputs") from error
    takes_any = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values())
    arguments: dict[str, Any] = {}
    for setting, value in settings.items():
        accepted = [key for key in (setting, _ALIASES.get(setting, setting)) if key in parameters]
        if accepted and value is not None:
            arguments[accepted[0]] = value
        elif setting == "num_outputs" and not accepted:
            if not takes_any:
                raise ConfigError(f"{name} takes neither num_classes nor num_outputs; add one of these arguments to it")
            arguments["num_classes"] = value
    missing = [
        key
        for key, item in parameters.items()
        if item.default is item.empty and item.kind in (item.KEYWORD_ONLY, item.POSITIONAL_OR_KEYWORD)
        if key not in arguments and key not in own
    ]
    if missing:
        known = ", ".join(key for key, value in settings.items() if value is not None)
        own_names = [key for key in missing if key not in (*decided, *INPUTS)]
        remedy = f"; give `model_args={own_names[0]}=...`" if own_names else ""
        if not own_names:
            remedy = "; resnet18 and the like take images, mlp tables, and lstm, gru and transformer sequences"
        raise ConfigError(
            f"{name} needs {', '.join(missing)}, which this data does not provide; it provides {known}{remedy}"
        )
    _refuse_unknown(name, parameters, own)
    try:
        model = builder(**arguments, **own)
    except LctpruneError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody else's code raises
        for key, value in own.items():
            wanted = parameters[key].annotation if key in parameters else None
            if isinstance(value, str) and wanted in (int, float, "int", "float"):
                raise ConfigError(f"model argument {key} is {value!r}; it must be a number") from error
        raise NetworkError(
            f"{name} cannot be built ({type(error).__name__}: {first_line(error, 'no reason given')})"
        ) from error
    if not isinstance(model, nn.Module):
        raise NetworkError(f"{name} returned a {type(model).__name__}, not an nn.Module")
    return model


def require_arguments(name: str, builder: Builder, own: Mapping[str, Any]) -> None:
    """Refuse arguments that a network does not take, as far as that is known before it is built.

    A network of torchvision or timm is built for the check, without memory for its weights.

    Args:
        name: name of the network.
        builder: function that builds it.
        own: arguments from the user.

    Raises:
        ConfigError: it does not take one of them.
    """
    if not own:
        return
    parameters: Mapping[str, inspect.Parameter] = {}
    with suppress(ValueError):  # of a function without readable arguments, which is refused later
        parameters = inspect.signature(builder).parameters
    if parameters:
        _refuse_unknown(name, parameters, own)
    if name in BUILT_IN or not (name.startswith(TIMM) or name in torchvision_names()):
        return
    try:
        with torch.device("meta"):
            call_builder(name, builder, {"num_outputs": 10, "in_channels": 3, "image_size": 224}, own)
    except NetworkError as error:
        if refused := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
            raise ConfigError(f"{name} does not take {refused[1]}; leave it out of `model_args`") from error


def _refuse_unknown(name: str, parameters: Mapping[str, inspect.Parameter], own: Mapping[str, Any]) -> None:
    takes_any = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values())
    if unknown := [key for key in own if key not in parameters and not takes_any]:
        raise ConfigError(f"{name} does not take {', '.join(unknown)}; it takes {', '.join(parameters)}")


def default_weights(name: str) -> Mapping[str, Tensor]:
    """Load torchvision's or timm's own weights, from their cache or by download.

    Raises:
        ConfigError: there are none for this model.
        NetworkError: they cannot be downloaded.
    """
    if is_transformers_name(name):
        return pretrained_weights(name)
    try:
        if name.startswith(TIMM):
            return cast(
                Mapping[str, Tensor], _timm().create_model(name.removeprefix(TIMM), pretrained=True).state_dict()
            )
        if name in torchvision_names():
            weights = _torchvision_models().get_model_weights(name).DEFAULT
            return cast(
                Mapping[str, Tensor], weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
            )
    except Exception as error:  # no connection, a broken file, whatever the downloader raises
        raise NetworkError(
            f"cannot load the weights of {name} ({first_line(error, 'no reason given')}); give a file of weights"
        ) from error
    raise ConfigError(f"{name} has no default weights; only torchvision's, timm's and hf/ models have")


def _build_torchvision(name: str, *, num_outputs: int, in_channels: int, image_size: int, **own: Any) -> nn.Module:
    sizes: dict[str, Any] = {}
    if name.startswith("vit_"):
        sizes = {"image_size": image_size}
    elif name.startswith("maxvit"):
        sizes = {"input_size": (image_size, image_size)}
    elif name in ("googlenet", "inception_v3"):
        sizes = {"init_weights": True}
    model = _torchvision_models().get_model(name, weights=None, num_classes=num_outputs, **sizes, **own)
    return with_input_channels(model, in_channels)


def _build_timm(name: str, *, num_outputs: int, in_channels: int, image_size: int, **own: Any) -> nn.Module:
    timm = _timm()
    cfg = timm.models.get_pretrained_cfg(name)
    size = {"img_size": image_size} if cfg is not None and cfg.fixed_input_size else {}
    model = timm.create_model(name, pretrained=False, num_classes=num_outputs, in_chans=in_channels, **size, **own)
    return cast(nn.Module, model)


def with_input_channels(model: nn.Module, in_channels: int) -> nn.Module:
    """Replace the first convolution, if it takes 3 channels, by a new one that takes `in_channels`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels == 3 and in_channels != 3:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, _like(module, in_channels))
            break
    return model


def _like(convolution: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    new = nn.Conv2d(
        in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def _dotted(name: str) -> str:
    """Say how a module is named, where a file was named."""
    path, _, function = name.partition(":")
    if "/" not in path and not path.endswith(".py"):
        return ""
    file = Path(path).with_suffix(".py")
    if not file.is_file():
        return f"there is no file {file}; "
    return f"write it {file.stem}:{function}, with PYTHONPATH set to {file.parent}; "


def _own_function(name: str) -> Builder:
    module_name, _, function_name = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
        builder = functools.reduce(getattr, function_name.split("."), module)
    except Exception as error:  # whatever somebody else's code raises at import
        is_elsewhere = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        remedy = ": run it where that file is, or set PYTHONPATH to its folder" if is_elsewhere else ""
        raise ConfigError(
            f"model {name!r} cannot be imported ({type(error).__name__}: {first_line(error, 'no reason given')}); "
            f"{_dotted(name)}it must be package.module:callable, importable from here{remedy}"
        ) from error
    if not callable(builder):
        raise ConfigError(f"model {name!r} is a {type(builder).__name__}, not a function")
    return cast(Builder, builder)


def _require_timm(name: str) -> None:
    if importlib.util.find_spec("timm") is None:
        raise ConfigError(f"model {name!r} needs timm, which is not installed; run pip install 'lctprune[timm]'")


def _torchvision_models() -> Any:
    return importlib.import_module("torchvision.models")


def _timm() -> Any:
    return importlib.import_module("timm")
