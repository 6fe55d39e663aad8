"""Networks that are not built in: one contract for torchvision's and timm's, and the user's own functions."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, get_model

import lctprune as lct
from lctprune.config.network import NetworkConfig, is_own_function
from lctprune.errors import ConfigError, LctpruneError, NetworkError, NetworkWarning
from lctprune.models.build import build_model, build_network, require_known
from lctprune.models.external import (
    find_builder,
    timm_names,
    torchvision_names,
    with_input_channels,
)
from lctprune.models.own_images import own_images

GROUPS, OUTPUTS = 4, 3
TOLERANCE = 1e-3  # an exported network has its batch norms folded into its convolutions
FAMILIES = [
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
]
SIZES = {"alexnet": 64, "inception_v3": 75, "maxvit_t": 224, "squeezenet1_0": 64, "squeezenet1_1": 64, "vit_h_14": 28}


def smallest(name: str) -> int:
    """Return a side of an image that the model accepts."""
    return SIZES.get(name, 32)


def built(name: str, image_size: int) -> tuple[nn.Module, Tensor]:
    """Build a model as the command line does, and two images."""
    torch.set_num_threads(1)
    config = NetworkConfig(model=name, image_size=image_size, num_outputs=OUTPUTS)
    return build_model(config), torch.randn(2, 3, image_size, image_size)


def check_contract(model: nn.Module, x: Tensor, folder: Path) -> None:
    """Cut into groups, a model computes what it did, trains by local critics, and each exit can be exported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)  # of auxiliary heads
        network = lct.attach_critics(model, x[:1], num_outputs=OUTPUTS, groups=GROUPS)
    assert len(network.groups) == GROUPS
    check_same(model.eval(), network.eval(), x)
    check_step(network.train(), x)
    network.zero_grad()  # the largest have 2.6 GB of gradients
    check_exports(network.eval(), x, folder)


def check_same(model: nn.Module, network: lct.LocalCriticNetwork, x: Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(network(x), model(x))
        flops, h = 0, x
        for group in network.groups:
            flops += lct.count_flops(group, h)
            h = group(h)
    assert flops == lct.count_flops(model, x) > 0
    main, original = network.main_state_dict(), model.state_dict()
    left_out = {name.split(".")[0] for name in original.keys() - main.keys()}
    assert main.keys() <= original.keys()
    assert left_out <= {"aux1", "aux2", "AuxLogits"}


def check_step(network: lct.LocalCriticNetwork, x: Tensor) -> None:
    losses = lct.local_critic_backward(network, x, torch.arange(len(x)) % OUTPUTS)
    assert len(losses) == GROUPS
    assert all(loss.isfinite().all() for loss in losses)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for module in (*network.groups, *network.critics):
        assert any(parameter.grad.any() for parameter in module.parameters())


def check_exports(network: lct.LocalCriticNetwork, x: Tensor, folder: Path) -> None:
    with torch.no_grad():
        expected = network.exits(x)
    for exit, output in enumerate(expected):
        path = lct.export(network.subnetwork(exit), x, folder / "exit.pt")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated", category=FutureWarning)
            torch.testing.assert_close(torch.jit.load(path)(x), output, rtol=TOLERANCE, atol=TOLERANCE)
        path.unlink()


# --- torchvision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_torchvision_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_contract(*built(name, smallest(name)), tmp_path)


CHILD = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("zoo", sys.argv[1])
zoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(zoo)
zoo.check_contract(*zoo.built(sys.argv[2], zoo.smallest(sys.argv[2])), pathlib.Path(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision_names())
def test_every_network_of_torchvision_keeps_the_contract(name: str, tmp_path: Path) -> None:
    # in a process of its own: TorchScript keeps the weights of every frozen network until the process ends
    child = subprocess.run(
        [sys.executable, "-c", CHILD, __file__, name, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr


def test_a_small_vision_transformer_keeps_the_contract(tmp_path: Path) -> None:
    model = VisionTransformer(32, 8, 4, 2, 16, 32, dropout=0.1, num_classes=OUTPUTS)
    nn.init.normal_(model.heads.head.weight)  # zeros at first
    check_contract(model, torch.randn(2, 3, 32, 32), tmp_path)


def test_torchvision_has_its_eighty_classifiers() -> None:
    names = torchvision_names()
    assert len(names) >= 80
    assert set(FAMILIES) | set(SIZES) <= set(names)
    assert not [name for name in names if "segmentation" in name or "rcnn" in name or "raft" in name]


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_grey_images_get_a_new_first_convolution(name: str) -> None:
    config = NetworkConfig(model=name, image_size=64, in_channels=1, num_outputs=OUTPUTS, groups=2)
    network = build_network(config).eval()
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, OUTPUTS)
    coloured = build_network(dataclasses.replace(config, in_channels=3)).main_state_dict()
    shapes = {name: tensor.shape for name, tensor in network.main_state_dict().items()}
    assert [name for name, tensor in coloured.items() if tensor.shape != shapes[name]] == [next(iter(coloured))]


def test_three_channels_change_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.ReLU())
    first = model[0]
    assert with_input_channels(model, 3)[0] is first
    again = with_input_channels(model, 2)[0]
    assert (again.in_channels, again.stride, again.padding, again.bias) == (2, (2, 2), (1, 1), None)


def test_an_argument_of_torchvision_reaches_the_model() -> None:
    config = NetworkConfig(model="mobilenet_v3_small", image_size=32, groups=1, model_args={"dropout": 0.7})
    dropouts = [module.p for module in build_network(config).modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [0.7]


def test_what_torchvision_refuses_is_said_in_one_line() -> None:
    with pytest.raises(NetworkError, match=r"vit_b_16 cannot be built \(.*\)$") as caught:
        build_network(NetworkConfig(model="vit_b_16", image_size=33))
    assert "\n" not in str(caught.value)


def test_images_are_normalized_as_those_that_the_weights_were_trained_on() -> None:
    usual = own_images("mobilenet_v3_small").normalization
    assert usual is not None
    assert usual.mean == (0.485, 0.456, 0.406)
    assert own_images("vgg-lct").normalization is None


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_that_would_transform_its_input_gets_it_transformed(name: str) -> None:
    # torchvision switches transform_input on where it loads its own weights
    pixels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    usual, own = own_images("mobilenet_v3_small").normalization, own_images(name).normalization
    assert usual is not None
    assert own is not None
    model = get_model(name, weights=None, init_weights=False, transform_input=True)
    torch.testing.assert_close(model._transform_input(usual.apply(pixels)), own.apply(pixels))


# --- timm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("mobilenetv3_small_100", 32), ("convnext_atto", 32), ("edgenext_xx_small", 32), ("mobilevit_xxs", 64)],
)
def test_a_network_of_timm_keeps_the_contract(name: str, image_size: int, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    check_contract(*built(f"timm/{name}", image_size), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "coatnet_nano_rw_224", "mixer_s32_224"]
)
def test_networks_of_timm_for_one_size_keep_the_contract(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    check_contract(*built(f"timm/{name}", 224), tmp_path)


def test_timm_takes_channels_and_classes() -> None:
    pytest.importorskip("timm")
    config = NetworkConfig(model="timm/mobilenetv3_small_050", image_size=32, in_channels=1, num_outputs=7, groups=2)
    assert build_network(config).eval()(torch.randn(2, 1, 32, 32)).shape == (2, 7)


def test_a_slip_in_timms_names() -> None:
    pytest.importorskip("timm")
    assert "timm/convnext_atto" in timm_names()
    with pytest.raises(ConfigError, match=r"'timm/convnext_ato' is unknown; did you mean .*timm/convnext_atto"):
        require_known("timm/convnext_ato")


# --- the user's own --------------------------------------------------------------------------------------------------

IMPORTS = "import torch\nfrom torch import nn\n"
LAYERS = "nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6 * 16, {}))"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module into the current folder; gives its name. What importing it leaves is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(code: str) -> str:
        name = f"own_networks_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(IMPORTS + code)
        return name

    return write


def config_of(model: str, **settings: object) -> NetworkConfig:
    return NetworkConfig(model=model, image_size=8, num_outputs=OUTPUTS, groups=2, **settings)


@pytest.mark.parametrize(
    ("signature", "width"),
    [
        ("num_classes", "num_classes"),
        ("num_outputs", "num_outputs"),
        ("num_classes=1000", "num_classes"),
        ("*, num_outputs, in_channels, image_size", "num_outputs + in_channels - 3 + image_size - 8"),
        ("num_classes, in_chans, img_size", "num_classes + in_chans - 3 + img_size - 8"),
        ("**settings", "settings['num_classes']"),
        ("num_outputs, **settings", "num_outputs + len(settings)"),
        ("num_outputs, width=4", "num_outputs"),
    ],
)
def test_a_function_is_given_what_it_takes(signature: str, width: str, own: Callable[[str], str]) -> None:
    module = own(f"def network({signature}):\n    return {LAYERS.format(width)}\n")
    network = build_network(config_of(f"{module}:network")).eval()
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, OUTPUTS)
    given = config_of(f"{module}:network")
    found = {"cuts": network.cuts, "cut_point_names": network.cut_point_names, "tracing": network.tracing}
    assert network.recipe == dataclasses.replace(given, critic_kinds=("tail",), **found)


def test_a_class_is_a_function_too(own: Callable[[str], str]) -> None:
    module = own(
        "class Networks:\n    class Net(nn.Sequential):\n        def __init__(self, num_classes, extra=1):\n"
        f"            super().__init__(*{LAYERS.format('num_classes * extra')})\n"
    )
    assert len(build_network(config_of(f"{module}:Networks.Net")).groups) == 2
    with pytest.raises(NetworkError, match=r"outputs of shape \[6\] .*not \[3\]"):
        build_network(config_of(f"{module}:Networks.Net", model_args={"extra": 2}))


def test_a_package_in_the_current_folder(own: Callable[[str], str], tmp_path: Path) -> None:
    package = tmp_path / f"package_{tmp_path.name}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(f"{IMPORTS}def network(num_classes):\n    return {LAYERS.format('num_classes')}\n")
    assert len(build_network(config_of(f"{package.name}.nets:network")).groups) == 2


BROKEN = {
    "neither": ("def network(width):\n    pass\n", ConfigError, "takes neither num_classes nor num_outputs"),
    "needs more": (
        "def network(num_classes, depth):\n    pass\n",
        ConfigError,
        "needs depth, .*num_outputs, in_channels, image_size",
    ),
    "raises": (
        "def network(num_classes):\n    raise KeyError('first\\nsecond')\n",
        NetworkError,
        r"cannot be built \(KeyError: .*first",
    ),
    "no module": (
        "def network(num_classes):\n    return num_classes\n",
        NetworkError,
        r"returned a int, not an nn\.Module",
    ),
    "a class": ("def network(num_classes):\n    return nn.ReLU\n", NetworkError, r"returned a type, not an nn\.Module"),
    "not callable": ("network = 3\n", ConfigError, "is a int, not a function"),
    "no such function": ("def other():\n    pass\n", ConfigError, r"cannot be imported \(AttributeError"),
    "fails at import": ("1 / 0\n", ConfigError, r"cannot be imported \(ZeroDivisionError: division by zero\)"),
    "no Python": ("def network(:\n", ConfigError, r"cannot be imported \(SyntaxError"),
}


@pytest.mark.parametrize(("code", "error", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_with_a_function_is_said(
    code: str, error: type[LctpruneError], message: str, own: Callable[[str], str]
) -> None:
    module = own(code)
    with pytest.raises(error, match=message) as caught:
        build_network(config_of(f"{module}:network"))
    assert "\n" not in str(caught.value)
    assert f"{module}:network" in str(caught.value)


@pytest.mark.parametrize("name", ["no_such_module:network", "no_such.module:network", ":network", "json:"])
def test_what_cannot_be_imported_is_refused(name: str, own: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=rf"model '{name}' cannot be imported .*package\.module:callable"):
        build_network(config_of(name))


def test_what_does_not_say_its_arguments_is_refused(own: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match="builtins:dict has no readable arguments"):
        build_network(config_of("builtins:dict"))


def test_an_own_error_of_ours_passes_unchanged(own: Callable[[str], str]) -> None:
    module = own(
        "import lctprune\ndef network(num_classes):\n    raise lctprune.ConfigError('width is 0; give at least 1')\n"
    )
    with pytest.raises(ConfigError, match=r"^width is 0; give at least 1$"):
        build_network(config_of(f"{module}:network"))


def test_a_recipe_alone_executes_nothing(own: Callable[[str], str], tmp_path: Path) -> None:
    module = own(
        "from pathlib import Path\nPath('executed').touch()\ndef network(num_classes):\n    return nn.ReLU()\n"
    )
    config = config_of(f"{module}:network")
    assert config.to_dict()["model"] == f"{module}:network"
    assert not (tmp_path / "executed").exists()
    find_builder(config.model)
    assert (tmp_path / "executed").exists()


def test_arguments_that_a_function_does_not_take_are_refused(own: Callable[[str], str]) -> None:
    module = own(f"def network(num_classes, width=4):\n    return {LAYERS.format('num_classes')}\n")
    with pytest.raises(ConfigError, match="does not take depth; it takes num_classes, width"):
        build_network(config_of(f"{module}:network", model_args={"depth": 3}))


@pytest.mark.parametrize(("name", "is_own"), [("a.b:c", True), ("resnet18", False), ("timm/convnext_atto", False)])
def test_what_is_the_users_own(name: str, is_own: bool) -> None:
    assert is_own_function(name) == is_own
