"""Every format: a file that does what the network does in its own runtime, or no file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import torchvision
from modules import Function
from torch import Tensor, nn

import lctprune as lct
from lctprune.errors import ConfigError, ExportError, NetworkWarning
from lctprune.exporting import formats, runtimes
from lctprune.exporting.formats import FORMATS, SUFFIXES, Format, known_formats
from lctprune.models.build import MODELS, build_network
from lctprune.models.external import timm_names

Cli = Callable[..., Any]
Runner = Callable[[Tensor], Tensor]
TOKENS, NUMBERS = {"vocabulary": 20, "steps": 6}, {"features": 5, "steps": 6}
INPUTS: dict[str, list[dict[str, int]]] = {
    **{name: [TOKENS, NUMBERS] for name in ("lstm", "gru", "transformer")},
    "mlp": [{"features": 5}],
}
BUILT_IN = [(name, inputs) for name in MODELS for inputs in INPUTS.get(name, [{"image_size": 8}])]


def built(name: str, **inputs: Any) -> tuple[lct.LocalCriticNetwork, Tensor]:
    """A small network, and real samples for it; sequences end with padding."""
    torch.manual_seed(0)
    width = {} if name in ("resnet50", "resnet101") else {"width": 8}
    network = build_network(lct.NetworkConfig(model=name, model_args=width, groups=2, num_outputs=3, **inputs))
    shape = network.recipe.example.shape[1:]
    x = torch.randint(1, 20, (4, *shape)) if "vocabulary" in inputs else torch.randn(4, *shape)
    if "steps" in inputs:
        x[0, 4:] = 0
    network.exits(x.repeat(8, *[1] * len(shape)))  # statistics of batch norm
    return network.eval(), x


FREE = [format for format in FORMATS if format != "aoti"]  # which is compiled, tens of seconds for each file


def skip_without(format: Format) -> None:
    if format in ("openvino", "executorch"):
        pytest.importorskip(format)


def opened(path: Path, format: Format, network: nn.Module) -> Runner:
    """Open a file as its user does."""
    if format == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])
    if format == "openvino":
        exact = {"INFERENCE_PRECISION_HINT": "f32"}  # by default it computes in bf16 where the CPU does
        compiled = pytest.importorskip("openvino").compile_model(path, "CPU", exact)
        return lambda x: torch.from_numpy(compiled(x.numpy())["output"])
    if format == "pt2":
        return torch.export.load(path).module()
    if format == "aoti":
        return torch._inductor.aoti_load_package(path)
    if format == "executorch":
        run = runtimes.opened(format, str(path))
        return lambda x: torch.from_numpy(run(x.numpy()))
    if format == "state-dict":
        network.load_state_dict(safetensors.torch.load_file(path))
        return network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(path)


def assert_file_is_right(network: lct.LocalCriticNetwork, x: Tensor, exit: int, format: Format, folder: Path) -> None:
    """Compare a file with the network at three batch sizes, and sequences also at other lengths."""
    skip_without(format)
    with pytest.warns(NetworkWarning, match="up to 64 samples") if format == "executorch" else nullcontext():
        path = lct.export(network.subnetwork(exit), x, folder / f"m{SUFFIXES[format]}", format=format)
    run = opened(path, format, network.subnetwork(exit))
    is_sequence = network.recipe.steps is not None and format not in ("executorch", "aoti")  # which have one length
    for batch in (1, 3, 64):
        for length in (1, 3, 6, 17) if is_sequence else (0,):
            samples = x[torch.arange(batch) % 4]
            samples = samples.repeat(1, 3, *[1] * (x.dim() - 2))[:, :length] if is_sequence else samples
            with torch.no_grad():
                expected = network.subnetwork(exit)(samples)
            torch.testing.assert_close(run(samples), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "format"), [("lstm", "pt2"), ("lstm", "torchscript"), ("gru", "openvino"), ("transformer", "state-dict")]
)
def test_files_take_any_batch_size_and_any_length(name: str, format: Format, tmp_path: Path) -> None:
    network, x = built(name, **INPUTS.get(name, [{"image_size": 8}])[0])
    assert_file_is_right(network, x, 0, format, tmp_path)


@pytest.mark.slow
def test_an_onnx_file_takes_any_length_too_and_quotes_no_source_code(tmp_path: Path) -> None:
    network, x = built("gru", **TOKENS)
    assert_file_is_right(network, x, 0, "onnx", tmp_path)
    model = onnx.load(tmp_path / "m.onnx")
    sizes = [[size.dim_param for size in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert sizes == [["batch", "length"]]
    assert "GRU" in {node.op_type for node in model.graph.node}  # in one piece, not step by step
    assert b"site-packages" not in (tmp_path / "m.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the aoti file takes sequences of 6 steps only")
@pytest.mark.parametrize("name", ["resnet18", "lstm", "gru", "transformer", "mlp"])
def test_every_kind_of_network_is_compiled(name: str, tmp_path: Path) -> None:
    network, x = built(name, **INPUTS.get(name, [{"image_size": 8}])[0])
    assert_file_is_right(network, x, 0, "aoti", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vit"])
def test_networks_for_images_are_compiled(name: str, tmp_path: Path) -> None:
    if name == "vit":
        sizes = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
        network = torchvision.models.VisionTransformer(**sizes, num_classes=3)
    else:
        network = torchvision.models.mobilenet_v3_small(num_classes=3)
    assert_family_file_is_right(network.eval(), torch.randn(2, 3, 32, 32), "aoti", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["executorch", "aoti"])
def test_narrowed_and_added_exits_are_compiled(
    format: Format, trained: lct.Run, image_folder: Path, cli: Cli, tmp_path: Path
) -> None:
    skip_without(format)
    narrowed = cli("narrow", trained.path, "--keep", "60%", "--exit", 0, "--json").document["candidates"]
    added = cli("densify", trained.path, "--epochs", 1, "--json").document["candidates"]
    numbers = {each["exit"] for each in narrowed + added if each["origin"]}
    assert len(numbers) > 2
    trust = ("--trust-code",) if format == "aoti" else ()
    for exit in (min(numbers), max(numbers)):  # one of each
        out = tmp_path / str(exit)
        assert cli("export", trained.path, "--exit", exit, "--format", format, "--out", out).code == 0
        both = ((out, *trust), (trained.path, "--exit", exit))
        answers = [cli("predict", *each, image_folder / "test", "--json").document["predictions"] for each in both]
        of_file, of_run = ([[one["probability"] for one in each["top"]] for each in found] for found in answers)
        numpy.testing.assert_allclose(of_file, of_run, atol=1e-4)


@pytest.mark.slow
def test_compiled_code_takes_grey_images_in_any_layout(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.Flatten()).eval()
    path = lct.export(network, torch.randn(2, 1, 9, 9), tmp_path / "m.aoti.pt2", format="aoti")
    run, images = opened(path, "aoti", network), torch.randn(3, 9, 9, 1).permute(0, 3, 1, 2)
    assert images.is_contiguous()
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(run(images), network(images).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_executorch_file_takes_larger_batches_in_pieces_and_quotes_no_source_code(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    network, x = built("mlp", features=5)
    assert_file_is_right(network, x, 1, "executorch", tmp_path)
    many, whole = torch.randn(150, 5), network.subnetwork(1)
    outputs = opened(tmp_path / "m.pte", "executorch", whole)(many)
    torch.testing.assert_close(outputs, whole(many).detach())
    assert b"site-packages" not in (tmp_path / "m.pte").read_bytes()


@pytest.mark.slow
def test_an_executorch_file_of_convolutions_takes_64_samples(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    network, x = built("resnet18", image_size=24)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # where PyTorch's own kernels are others for fewer than 16 samples
    try:
        assert_file_is_right(network, x, 1, "executorch", tmp_path)
    finally:
        torch.set_num_threads(threads)
    program = importlib.import_module("executorch.runtime").Runtime.get().load_program(tmp_path / "m.pte")
    assert program.load_method("forward").metadata.input_tensor_meta(0).sizes()[0] == 64


def test_an_executorch_file_takes_no_pixels(cli: Cli, trained: lct.Run, tmp_path: Path) -> None:
    options = ("--format", "executorch", "--with-preprocessing", "--out", tmp_path / "out")
    if importlib.util.find_spec("executorch") is None:
        assert "pip install 'lctprune[executorch]'" in cli("export", trained.path, *options).err
    else:
        assert "leave out --with-preprocessing" in cli("export", trained.path, *options).err
        result = cli("export", trained.path, "--format", "executorch", "--precision", "int8", "--out", tmp_path / "out")
        assert (result.code, "executorch has no int8" in result.err) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the executorch file takes sequences of 6 steps only")
@pytest.mark.parametrize("format", FREE)
@pytest.mark.parametrize(("name", "inputs"), BUILT_IN)
def test_every_exit_of_every_built_in_network(
    name: str, inputs: dict[str, int], format: Format, tmp_path: Path
) -> None:
    network, x = built(name, **inputs)
    for exit in range(len(network.groups)):
        assert_file_is_right(network, x, exit, format, tmp_path)


FAMILIES = [
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "shufflenet_v2_x0_5",
    "regnet_x_400mf",
    "convnext_tiny",
    "vit_b_16",
    "googlenet",
    "timm/mobilevit_xxs",
    "timm/mixer_s32_224",
    "timm/ghostnet_050",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the executorch file takes up to 64")
@pytest.mark.parametrize("format", FREE)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_exit_of_other_families(name: str, format: Format, tmp_path: Path) -> None:
    assert not name.startswith("timm/") or name in timm_names()
    torch.manual_seed(0)
    side = 224 if "mixer" in name or "vit" in name else 64
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)
        network = build_network(lct.NetworkConfig(model=name, image_size=side, groups=3, num_outputs=3)).eval()
    x = torch.randn(2, 3, side, side)
    for exit in range(3):
        assert_family_file_is_right(network.subnetwork(exit), x, format, tmp_path)


def assert_family_file_is_right(network: nn.Module, x: Tensor, format: Format, folder: Path) -> None:
    skip_without(format)
    path = lct.export(network, x, folder / f"m{SUFFIXES[format]}", format=format)
    run = opened(path, format, network)
    for batch in (1, 3, 8):
        samples = x[torch.arange(batch) % 2]
        with torch.no_grad():
            torch.testing.assert_close(run(samples), network(samples), rtol=1e-3, atol=1e-3)


# --- what is not in a file -------------------------------------------------------------------------------------------


def test_a_pt2_file_holds_neither_samples_nor_source_code(tmp_path: Path) -> None:
    x = torch.full((3, 7), 1234.5)
    path = lct.export(nn.Sequential(nn.Linear(7, 2), Function(torch.relu)), x, tmp_path / "m.pt2", format="pt2")
    content = path.read_bytes()
    assert x[0].numpy().tobytes() not in content
    assert b"stack_trace" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def noisy(x: Tensor) -> Tensor:
    return x.flatten(1) + torch.rand(x.shape[0], 1)


def branched(x: Tensor) -> Tensor:
    return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
@pytest.mark.parametrize("function", [noisy, branched])
def test_a_file_with_other_outputs_is_not_written(
    function: Callable[[Tensor], Tensor], format: Format, tmp_path: Path
) -> None:
    x = torch.stack([torch.full((8,), value) for value in (1.0, 1.0, 1.0, -1.0)])
    with pytest.raises(ExportError) as caught:
        lct.export(Function(function), x, tmp_path / "model", format=format)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def step_by_step(x: Tensor) -> Tensor:  # [batch, steps, features] -> [batch, features]
    total = torch.zeros_like(x[:, 0])
    for step in range(x.shape[1]):
        total = 0.5 * total + x[:, step]
    return total


def test_a_length_that_is_a_constant_is_said(tmp_path: Path) -> None:
    x = torch.randn(3, 6, 2)
    with pytest.warns(NetworkWarning, match="sequences of 6 steps only"):
        path = lct.export(Function(step_by_step), x, tmp_path / "m.pt2", format="pt2")
    torch.testing.assert_close(torch.export.load(path).module()(x[:1]), step_by_step(x[:1]))


def test_a_batch_size_that_is_a_constant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="batch size as a constant"):
        lct.export(Function(lambda x: x + torch.arange(int(x.shape[0]))[:, None]), torch.ones(3, 4), tmp_path / "m.pt2",
                   format="pt2")  # fmt: skip
    assert not list(tmp_path.iterdir())


# --- names -----------------------------------------------------------------------------------------------------------


def test_formats_may_be_given_together() -> None:
    assert known_formats(["pt2,torchscript", " state-dict ", "pt2"]) == ["pt2", "torchscript", "state-dict"]
    for wrong in ("pt3", "pt2,", ""):
        with pytest.raises(ConfigError, match="torchscript, pt2, onnx, openvino, executorch, aoti, state-dict"):
            known_formats([wrong])


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(formats.EXTRAS, "onnx", ("nosuchpackage",))
    with pytest.raises(ConfigError, match=r"nosuchpackage.*pip install 'lctprune\[onnx\]'"):
        lct.export(nn.Flatten(), torch.ones(2, 3), tmp_path / "m.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_a_pair_of_openvino_files_is_named_by_its_graph(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    x = torch.randn(3, 7)
    network = nn.Sequential(nn.Linear(7, 2), nn.ReLU())
    with pytest.raises(ConfigError, match=r"m\.onnx does not end in \.xml"):
        lct.export(network, x, tmp_path / "m.onnx", format="openvino")
    path = lct.export(network, x, tmp_path / "m.xml", format="openvino")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    assert (tmp_path / "m.bin").stat().st_size >= 4 * 16  # weights in full precision
    assert b"site-packages" not in path.read_bytes()


# --- of a run --------------------------------------------------------------------------------------------------------


def test_several_files_of_a_run(cli: Cli, trained: lct.Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("export", trained.path, "--exit", 1, "--out", out).code == 0  # whose files go
    document = cli("export", trained.path, "--exit", 0, "--format", "onnx,state-dict", "--out", out, "--json").document
    assert document["models"] == [str(out / "model.onnx"), str(out / "model.safetensors")]
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "model.json",
        "model.onnx",
        "model.safetensors",
    ]
    card = json.loads((out / "model.json").read_text())
    onnx_file, weights = card["files"]
    assert (card["file"], card["format"]) == ("model.onnx", "onnx")
    assert [each["size_bytes"] for each in card["files"]] == [Path(path).stat().st_size for path in document["models"]]
    check = onnx_file["check"]
    assert (onnx_file["runtime"], onnx_file["runtime_version"]) == ("onnxruntime", onnxruntime.__version__)
    assert (check["process"], check["batches"]) == ("new", [1, 3, 64])
    assert check["largest_difference"] < 1e-4
    assert check["score"] == check["score_of_network"]
    assert onnx_file["latency_ms"] > 0
    assert onnx_file["load_ms"] > 0
    # the score is that of the file, recomputed here
    loaded = lct.load_network(trained.path)
    data = lct.load_data(trained.config.data.config)
    inputs, targets = next(data.val.batches(64))
    outputs = opened(out / "model.onnx", "onnx", loaded)(inputs)
    assert check["samples"] == len(targets)
    assert check["score"] == pytest.approx((outputs.argmax(1) == targets).float().mean().item())
    # the names of the original model, and of the critic
    tensors = safetensors.numpy.load_file(out / "model.safetensors")
    main = loaded.main_state_dict()
    assert all(numpy.array_equal(value, main[name]) for name, value in tensors.items() if name in main)
    assert {name for name in tensors if name not in main} == {
        f"critic.{name}" for name in loaded.critics[0].state_dict()
    }
    assert weights["format"] == "state-dict"


@pytest.mark.parametrize("given", ["onix", "pt2,onix"])
def test_an_unknown_format_writes_nothing(given: str, cli: Cli, trained: lct.Run, tmp_path: Path) -> None:
    result = cli("export", trained.path, "--format", given, "--out", tmp_path / "out")
    assert result.code == 2
    assert "onix" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_format_is_tried_in_a_new_process(cli: Cli, trained: lct.Run, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    formats = ("--format", "torchscript", "--format", "pt2,onnx,openvino")
    result = cli("export", trained.path, *formats, "--out", tmp_path / "o")
    assert result.code == 0, result.err
    files = json.loads((tmp_path / "o" / "model.json").read_text())["files"]
    assert [each["format"] for each in files] == ["torchscript", "pt2", "onnx", "openvino"]
    graph = files[-1]
    weights = tmp_path / "o" / graph["weights"]["file"]
    assert weights.name == "model.bin"
    assert graph["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert graph["size_bytes"] == weights.stat().st_size + (tmp_path / "o" / "model.xml").stat().st_size
    assert all(each["check"]["process"] == "new" for each in files)
