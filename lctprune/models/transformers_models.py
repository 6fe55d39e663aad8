"""Models of Hugging Face `transformers`, by the name `hf/NAME`: of the hub, or a folder that `save_pretrained` wrote.

Nothing but JSON and safetensors is read: code that comes with a model is never executed. A run records the model's
configuration, so that its network is built again without the folder or the hub.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from lctprune.data.preprocessing import Normalization
from lctprune.errors import ConfigError, NetworkError, NetworkWarning, first_line
from lctprune.models.names import TRANSFORMERS

# what could fetch code or other weights, or belongs to a checkpoint that is not loaded here
_LEFT_OUT = ("auto_map", "attn_implementation", "experts_implementation", "quantization_config", "dtype", "torch_dtype")


def is_transformers_name(name: str) -> bool:
    """Tell whether a name is that of a model of `transformers`."""
    return name.startswith(TRANSFORMERS)


def require_transformers(name: str) -> None:
    """Refuse a name where `transformers` is not installed.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(f"model {name!r} needs transformers, which is not installed; run pip install 'lctprune[hf]'")


def read_architecture(name: str) -> dict[str, Any]:
    """Read the configuration of a model, config.json, as plain JSON values.

    Raises:
        ConfigError: there is none, or it is of a model whose code is not part of `transformers`.
    """
    require_transformers(name)
    try:
        with _quietly():
            config = _transformers().AutoConfig.from_pretrained(_location(name), trust_remote_code=False)
    except ConfigError:
        raise
    except Exception as error:  # no such folder, no connection, an unknown kind of model
        raise ConfigError(
            f"cannot read the configuration of {name} ({first_line(error, 'no reason given')}); after hf/ stands a "
            "folder with config.json, or a name of the Hugging Face hub; code that comes with a model is not executed"
        ) from error
    content: dict[str, Any] = config.to_dict()
    return {key: value for key, value in content.items() if key not in _LEFT_OUT and not key.startswith("_")}


def build_transformers_model(
    name: str,
    *,
    architecture: Mapping[str, Any] | None = None,
    num_outputs: int,
    in_channels: int | None = None,
    image_size: int | None = None,
    vocabulary: int | None = None,
    **own: Any,
) -> nn.Module:
    """Build a classifier of images or of token ids with new weights.

    Args:
        name: name of the model, `hf/NAME`.
        architecture: configuration that a run recorded; by default it is read.
        num_outputs: number of classes.
        in_channels: channels of the images.
        image_size: side of the images.
        vocabulary: number of tokens, of which 0 is the padding.
        own: further values of the configuration.

    Raises:
        ConfigError: it is no classifier of such inputs, or the configuration has no such value.
    """
    content = {**(read_architecture(name) if architecture is None else architecture)}
    content = {key: value for key, value in content.items() if key not in ("id2label", "label2id", "num_labels")}
    if unknown := [key for key in own if key not in content]:
        raise ConfigError(f"the configuration of {name} has no {', '.join(unknown)}")
    given = {"num_channels": in_channels, "image_size": image_size, "vocab_size": vocabulary}
    if vocabulary is not None:
        given["pad_token_id"] = 0
    content |= {key: value for key, value in given.items() if value is not None and key in content} | own
    config = _config(name, content, num_labels=num_outputs)
    kind, takes_images = _class_of(name, config)
    if takes_images != (image_size is not None):
        raise ConfigError(f"{name} takes {'images' if takes_images else 'texts'}, and this data has none")
    return cast(nn.Module, kind(config))


def pretrained_weights(name: str) -> Mapping[str, Tensor]:
    """Load a model's weights from its safetensors, in single precision.

    Raises:
        NetworkError: there are none, or they cannot be downloaded.

    Warns:
        NetworkWarning: they have no classifier, which is new then.
    """
    kind, _ = _class_of(name, _config(name, read_architecture(name)))
    try:
        with _quietly():
            model, info = kind.from_pretrained(
                _location(name), use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:  # no such file, no connection, a broken file
        raise NetworkError(
            f"cannot load the weights of {name} ({first_line(error, 'no reason given')}); it needs model.safetensors"
        ) from error
    if missing := sorted(info["missing_keys"]):
        warnings.warn(f"{name} has no weights for {', '.join(missing)}, which are new", NetworkWarning, stacklevel=2)
    weights = cast(Mapping[str, Tensor], model.float().state_dict())
    if all(len(weights[name]) == model.config.num_labels for name in missing):  # a classifier, which then is not theirs
        return {name: tensor for name, tensor in weights.items() if name not in missing}
    return weights


def image_preprocessing(name: str) -> tuple[int | None, Normalization | None]:
    """Return the side and the normalisation of the images that a model was trained on, by preprocessor_config.json."""
    base = importlib.import_module("transformers.image_processing_base")
    try:
        content, _ = base.ImageProcessingMixin.get_image_processor_dict(_location(name))
    except Exception:  # a model of texts, or without that file
        return None, None
    scale = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    if not content.get("do_normalize", True) or "image_mean" not in content:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean, std = tuple(content["image_mean"]), tuple(content["image_std"])
    factor = 255 * scale  # lctprune normalises pixels between 0 and 1
    normalization = Normalization(tuple(m / factor for m in mean), tuple(s / factor for s in std))
    return _side(content), normalization


def _side(content: Mapping[str, Any]) -> int | None:
    size = content.get("crop_size") if content.get("do_center_crop") else None
    size = size or content.get("size")
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return int(size) if size else None


def _config(name: str, content: Mapping[str, Any], **changes: Any) -> Any:
    mapping = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    kind = content.get("model_type")
    if kind not in mapping:
        raise ConfigError(f"{name} is a model of the kind {kind!r}, which this version of transformers does not have")
    kept = {key: value for key, value in content.items() if key not in _LEFT_OUT and not key.startswith("_")}
    return mapping[kind].from_dict({**kept, **changes})


def _class_of(name: str, config: Any) -> tuple[Any, bool]:
    """Return the class of the classifier that a configuration is for, and whether it takes images.

    Raises:
        ConfigError: there is no such classifier.
    """
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    images, texts = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    for mapping in (images, texts):
        if type(config) in mapping:
            kinds = mapping[type(config)]
            kinds = kinds if isinstance(kinds, tuple | list) else [kinds]
            named = [each for each in kinds if each.__name__ in (config.architectures or ())]
            return (named or [*kinds])[0], mapping is images
    raise ConfigError(f"{name} ({config.model_type}) classifies neither images nor texts")


def _location(name: str) -> str:
    """Return the folder, or the name of the hub; a folder given by a path is not looked for on the hub.

    Raises:
        ConfigError: there is no such folder.
    """
    location = name.removeprefix(TRANSFORMERS)
    is_path = location.startswith((".", "/", "~")) or location.count("/") > 1
    if is_path and not Path(location).expanduser().is_dir():
        raise ConfigError(f"{name}: there is no folder {location}; after hf/ stands a folder or a name of the hub")
    return str(Path(location).expanduser()) if Path(location).expanduser().is_dir() else location


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the warnings and the progress bars of `transformers` inside the block."""
    log = importlib.import_module("transformers.utils.logging")
    level, shows_bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if shows_bars:
            log.enable_progress_bar()


def _transformers() -> Any:
    return importlib.import_module("transformers")
