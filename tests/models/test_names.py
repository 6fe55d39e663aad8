"""Names of networks, read from the sources of the packages that have them."""

from __future__ import annotations

import pytest
import torch

from lctprune.config.network import NetworkConfig
from lctprune.errors import ConfigError
from lctprune.models.build import MODELS, require_takes
from lctprune.models.external import timm_names, torchvision_names
from lctprune.models.names import BUILT_IN, require_plausible, unknown_model


def test_networks_that_are_known_pass() -> None:
    assert tuple(MODELS) == BUILT_IN
    for name in [
        *MODELS,
        "resnet",
        *torchvision_names()[::8],
        *timm_names()[::80],
        "hf/anything",
        "package.module:function",
    ]:
        require_plausible(name)


@pytest.mark.parametrize(
    ("name", "near"), [("resnet19", "resnet18"), ("mobilnet_v2", "mobilenet_v2"), ("timm/resnet19", "timm/resnet18")]
)
def test_a_mistyped_name_is_refused_and_the_nearest_named(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"model '{name}' is unknown; did you mean {near}[,?]"):
        require_plausible(name)
    assert f"did you mean {near}" in str(unknown_model(name))


@pytest.mark.parametrize("model", ["vgg-lct", "alexnet", "timm/resnet18"])
def test_an_argument_that_a_network_does_not_take_is_refused_before_it_is_built(model: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=f"{model} does not take widht"):
        require_takes(NetworkConfig(model=model, model_args={"widht": 8}))
    assert torch.equal(before, torch.get_rng_state())
    taken = {"vgg-lct": {"width": 4}, "alexnet": {"dropout": 0.1}, "timm/resnet18": {"drop_rate": 0.1}}[model]
    require_takes(NetworkConfig(model=model, model_args=taken))


def test_an_argument_that_some_sizes_of_images_do_not_suit_is_left_to_the_data() -> None:
    require_takes(NetworkConfig(model="resnet18", model_args={"width": 8}))  # too few for large images
