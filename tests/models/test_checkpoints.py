"""Checkpoints as the usual trainers write them: loaded to the bit and said, or refused with what to do."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import json
import os
import re
import subprocess
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import lctprune as lct
from lctprune.errors import NetworkError, NetworkWarning
from lctprune.models.build import build_network
from lctprune.models.weights import is_run, load_weights, read_weights

State = dict[str, Tensor]


def network(seed: int = 0, num_outputs: int = 3) -> nn.Sequential:
    """A network of two blocks, with a batch norm in each, whose statistics are not those of a new one."""
    torch.manual_seed(seed)
    block = [nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(2)]
    model = nn.Sequential(
        collections.OrderedDict(features=nn.Sequential(*block), flat=nn.Flatten(), fc=nn.Linear(48, num_outputs))
    )
    for norm in (model.features[0][1], model.features[1][1]):
        norm.running_mean.normal_()
    return model


def read_into(model: nn.Module, path: Path, num_outputs: int = 3) -> tuple[str | None, list[str]]:
    """Load a file into a model; return the record and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = load_weights(model, read_weights(path), num_outputs=num_outputs, source="file").note
    assert all(issubclass(warning.category, NetworkWarning) for warning in caught)
    return record, [str(warning.message) for warning in caught]


def assert_holds(model: nn.Module, state: State) -> None:
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def changed(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


# --- files of the usual trainers -------------------------------------------------------------------------------------

WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {  # and what the note says; "" where nothing is to be said
    "plain": (dict, ""),
    "in order": (collections.OrderedDict, ""),
    "state_dict": (lambda state: {"state_dict": state, "epoch": 3, "best": 0.9, "optimizer": {"lr": 0.1}}, ""),
    "model_state_dict": (lambda state: {"model_state_dict": state, "optimizer": {"state": {0: state}}}, ""),
    "any key": (lambda state: {"generator": state, "step": 1}, ""),
    "nested": (lambda state: {"states": {"model": {"weights": state}}}, ""),
    "parallel": (lambda state: {"state_dict": prefixed(state, "module."), "best_prec1": 92.6}, "'module.'"),
    "compiled": (lambda state: prefixed(state, "_orig_mod."), "'_orig_mod.'"),
    "compiled, parallel": (lambda state: {"net": prefixed(state, "module._orig_mod.")}, "'module._orig_mod.'"),
    "Lightning": (
        lambda state: {
            "state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(3)},
            "pytorch-lightning_version": "2.4",
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(1.0)}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        },
        r"'model\.'; 1 tensor left out \(criterion\.weight\)",
    ),
    "Lightning, compiled": (lambda state: {"state_dict": prefixed(state, "net._orig_mod.")}, "'net._orig_mod.'"),
    "a detector": (
        lambda state: {"state_dict": prefixed(state, "backbone.body.") | {"rpn.weight": torch.ones(2)}},
        r"'backbone\.body\.'",
    ),
    "an encoder": (lambda state: prefixed(state, "module.encoder."), r"'module\.encoder\.'"),
    "parallel inside": (
        lambda state: {name.replace("features.", "features.module."): each for name, each in state.items()},
        "wrappers inside",
    ),
    "compiled inside, in Lightning": (
        lambda state: {
            "state_dict": {"model." + name.replace(".0.", ".0._orig_mod."): each for name, each in state.items()}
        },
        "'model.'; names without the wrappers inside",
    ),
    "checkpointed and sharded inside": (
        lambda state: {
            name.replace(".1.", ".1._fsdp_wrapped_module._checkpoint_wrapped_module."): each
            for name, each in state.items()
        },
        "wrappers inside",
    ),
    "averaged only": (lambda state: {"state_dict_ema": prefixed(state, "module."), "arch": "x"}, "'module.'"),
    "SWA": (lambda state: {"n_averaged": torch.tensor(5), **prefixed(state, "module.")}, "left out .n_averaged."),
    "with counts of FLOPs": (lambda state: state | {"features.0.0.total_ops": torch.zeros(1)}, ""),
    "options": (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, out=Path("a"))}, ""),
    "figures": (
        lambda state: {
            "state_dict": state,
            "a": np.float64(70.1),
            "b": np.int64(3),
            "c": np.arange(3),
            "d": np.bool_(1),
        },
        "",
    ),
    "a loop": (lambda state: looped({"model": state}), ""),
}


def looped(content: dict[str, Any]) -> dict[str, Any]:
    content["self"] = content
    return content


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(("wrap", "said"), WRAPPED.values(), ids=WRAPPED)
def test_files_of_usual_trainers(wrap: Callable[[State], Any], said: str, old: bool, tmp_path: Path) -> None:
    state, path = network(1).state_dict(), tmp_path / "model_best.pth.tar"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not old)
    model = network(2)
    record, notes = read_into(model, path)
    assert_holds(model, state)
    assert len(notes) == bool(said)
    assert re.search(said, "".join(notes))
    assert all(note.removeprefix("file: ") in (record or "") for note in notes)


def test_averaged_weights_are_preferred_and_that_is_said(tmp_path: Path) -> None:
    averaged, trained = network(1).state_dict(), network(2).state_dict()
    parameters = {name: tensor for name, tensor in averaged.items() if "running" not in name}
    for content in (
        {"state_dict": trained, "state_dict_ema": averaged},
        {"model": trained, "model_ema": prefixed(averaged, "module.") | {"n_averaged": torch.tensor(3)}},
        {"state_dict": prefixed(trained, "model.") | prefixed(averaged, "ema_model.")},
        {"model": trained, "ema": {"shadow": averaged, "decay": 0.99}},
        {"ema": prefixed(trained, "online_model.") | prefixed(averaged, "ema_model.") | {"step": torch.tensor(3)}},
        {"ema": {"online_model": trained, "ema_model": averaged}},
    ):
        torch.save(content, tmp_path / "w.pt")
        model = network(3)
        _, (note,) = read_into(model, tmp_path / "w.pt")
        assert_holds(model, averaged)
        assert re.search(r"taken from \S*ema\S*, rather than from (ema\.online_|state_dict|model)", note)
    torch.save({"model": trained, "ema": parameters}, tmp_path / "w.pt")  # without the statistics of batch norm
    assert read_into(model, tmp_path / "w.pt") == ("taken from 'model'", [])
    assert_holds(model, trained)


def test_what_nothing_decides_between_is_refused(tmp_path: Path) -> None:
    one, other = network(1).state_dict(), network(2).state_dict()
    for content, *names in (
        ({"student": one, "teacher": other}, "student", "teacher"),
        ({"student": prefixed(one, "module."), "teacher": other, "copy": dict(other)}, "student", "teacher"),
        (prefixed(one, "encoder_q.") | prefixed(other, "encoder_k."), "encoder_q", "encoder_k"),
    ):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(NetworkError, match=r"several sets .* \(\S+, \S+\); save") as caught:
            load_weights(network(), read_weights(tmp_path / "w.pt"), num_outputs=3, source="file")
        assert all(str(caught.value).count(name) == 1 for name in names)
    torch.save({"student": one, "teacher": dict(one)}, tmp_path / "w.pt")  # equal: there is nothing to decide
    model = network()
    read_into(model, tmp_path / "w.pt")
    assert_holds(model, one)


def test_a_prefix_that_is_the_networks_own_stays(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.ModuleDict({"model": nn.Linear(4, 2), "module": nn.Linear(2, 2)})

    source, model = Net(), Net()
    for prefix in ("", "module.", "model.module."):
        torch.save(prefixed(source.state_dict(), prefix), tmp_path / "w.pt")
        model.module.model.reset_parameters()
        read_into(model, tmp_path / "w.pt", num_outputs=2)
        assert_holds(model, source.state_dict())


def test_densenet_files_of_old(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.denselayer1 = nn.ModuleDict({"norm1": nn.BatchNorm2d(2), "conv2": nn.Conv2d(2, 2, 1)})

    source, model = Net(), Net()
    old = {re.sub(r"(norm|conv)(\d)", r"\1.\2", name): each for name, each in source.state_dict().items()}
    assert "denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    read_into(model, tmp_path / "densenet121-a639ec97.pth")
    assert_holds(model, source.state_dict())


# --- safetensors, whole and in shards --------------------------------------------------------------------------------


def in_shards(folder: Path, state: State, *, suffix: str = "safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    names = sorted(state)
    shards = {f"model-0000{index + 1}-of-00002.{suffix}": names[index::2] for index in range(2)}
    for shard, held in shards.items():
        part = {name: state[name] for name in held}
        safetensors.torch.save_file(part, folder / shard) if suffix == "safetensors" else torch.save(
            part, folder / shard
        )
    index = folder / f"{'model' if suffix == 'safetensors' else 'pytorch_model'}.{suffix}.index.json"
    where = {name: shard for shard, held in shards.items() for name in held}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    (folder / "config.json").write_text("{}")
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_from_their_folder_or_index(suffix: str, tmp_path: Path) -> None:
    state = network(1).state_dict()
    index = in_shards(tmp_path / "saved", prefixed(state, "model."), suffix=suffix)
    for path in (index, index.parent):
        model = network(2)
        assert not is_run(path)
        _, (note,) = read_into(model, path)
        assert_holds(model, state)
        assert "'model.'" in note


def test_a_folder_with_one_file_is_read(tmp_path: Path) -> None:
    state = network(1).state_dict()
    for name, save in (("pytorch_model.bin", torch.save), ("model.safetensors", safetensors.torch.save_file)):
        save(prefixed(state, "module."), tmp_path / name)
        model = network(2)
        read_into(model, tmp_path)
        assert_holds(model, state)


def test_shards_that_are_missing_or_elsewhere_are_refused(tmp_path: Path) -> None:
    index = in_shards(tmp_path / "saved", network(1).state_dict())
    document = json.loads(index.read_text())
    name = next(iter(document["weight_map"]))
    for shard, match in (("../x.safetensors", "must lie beside"), ("gone.safetensors", r"gone.* cannot be read")):
        index.write_text(json.dumps({"weight_map": {**document["weight_map"], name: shard}}))
        with pytest.raises(NetworkError, match=match):
            read_weights(index)
    index.write_text(json.dumps({"weight_map": {**document["weight_map"], "other": document["weight_map"][name]}}))
    with pytest.raises(NetworkError, match="lacks other, which"):
        read_weights(index.parent)
    for broken in ("{", "[]", '{"weight_map": 3}', '{"weights": {}}'):
        index.write_text(broken)
        with pytest.raises(NetworkError, match="is not an index of shards"):
            read_weights(index)


def test_safetensors_with_another_ending(tmp_path: Path) -> None:
    state = network(1).state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.bin")
    model = network(2)
    assert read_into(model, tmp_path / "w.bin") == (None, [])
    assert_holds(model, state)


def test_tied_weights_may_be_given_once(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
        model[2].weight = model[0].weight
        return model

    source, model = tied(), tied()
    state = source.state_dict()
    for given in (state, {"0.weight": state["0.weight"]}, {"2.weight": state["2.weight"]}):
        torch.save(given, tmp_path / "w.pt")
        nn.init.zeros_(model[0].weight)
        read_into(model, tmp_path / "w.pt")
        assert_holds(model, state)
    torch.save({**state, "2.weight": state["2.weight"] + 1}, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=r"differs in 0\.weight and 2\.weight, which are one tensor"):
        read_into(model, tmp_path / "w.pt")


# --- the classifier --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_without_a_classifier_it_is_new_and_that_is_said(prefix: str, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in network(1).state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": prefixed(state, prefix)}, tmp_path / "w.pt")
    model = network(2)
    head = model.fc.weight.clone()
    _, notes = read_into(model, tmp_path / "w.pt")
    assert "has no classifier: fc is new" in notes[0]
    assert "starts at zero" in notes[0]
    assert torch.equal(model.fc.weight, head)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_layer_in_the_middle_is_no_classifier(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in network(1).state_dict().items() if not name.startswith("features.0.0")}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=r"lacks 2 of 16 tensors \(features\.0\.0\.weight, features\.0\.0\.bias\)"):
        read_into(network(2), tmp_path / "w.pt")


# --- types and values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("here", [torch.float32, torch.float64])
def test_other_precisions_are_converted_and_that_is_said(dtype: torch.dtype, here: torch.dtype, tmp_path: Path) -> None:
    source = network(1).to(dtype)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    model = network(2).to(here)
    _, notes = read_into(model, tmp_path / "w.pt")
    assert_holds(
        model, {name: tensor.to(model.state_dict()[name].dtype) for name, tensor in source.state_dict().items()}
    )
    names = [str(each).removeprefix("torch.") for each in (dtype, here)]
    assert notes == ([f"file: 14 tensors converted from {names[0]} to {names[1]}"] if dtype != here else [])


UNUSABLE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "int8": (lambda tensor: tensor.to(torch.int8), r"fc\.weight is int8 there, float32 in the network"),
    "bool": (lambda tensor: tensor > 0, r"fc\.weight is bool there"),
    "complex": (lambda tensor: tensor.to(torch.complex64), r"fc\.weight is complex64 there"),
    "float8": (lambda tensor: tensor.to(torch.float8_e4m3fn), r"fc\.weight is float8_e4m3fn there"),
    "sparse": (lambda tensor: tensor.to_sparse(), r"fc\.weight is float32 \(sparse_coo\) there"),
    "meta": (lambda tensor: tensor.to("meta"), r"fc\.weight is float32 on the meta device there"),
    "NaN": (lambda tensor: tensor * torch.nan, r"NaN or infinite numbers in fc\.weight"),
    "infinite": (lambda tensor: tensor / 0, r"NaN or infinite numbers in fc\.weight"),
    "too large": (lambda tensor: tensor.double() * 1e300, r"NaN or infinite numbers in fc\.weight"),
}


@pytest.mark.parametrize(("change", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_types_and_values_that_are_no_weights_are_refused(
    change: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    state = network(1).state_dict()
    torch.save({**state, "fc.weight": change(state["fc.weight"])}, tmp_path / "w.pt")
    model = network(2)
    with pytest.raises(NetworkError, match=message):
        read_into(model, tmp_path / "w.pt")
    assert_holds(model, network(2).state_dict())


def test_an_infinite_mask_and_counters_of_other_types_are_no_fault(tmp_path: Path) -> None:
    model, source = network(2), network(1)
    for each, value in ((model, 0.0), (source, -torch.inf)):
        each.register_buffer("mask", torch.full((2, 2), value))
    state = source.state_dict()
    for name in state:
        if name.endswith("num_batches_tracked"):
            state[name] = state[name].to(torch.int32)
    torch.save(state, tmp_path / "w.pt")
    assert read_into(model, tmp_path / "w.pt") == (None, [])
    assert_holds(model, source.state_dict())


# --- files that hold more, or something else -------------------------------------------------------------------------


class Settings(dict):  # type: ignore[type-arg]
    """A class of the user's own, whose code must not run."""

    made: ClassVar[list[str]] = []

    def __setstate__(self, state: object) -> None:
        Settings.made.append("made")


class Colour(enum.Enum):
    """An enumeration of the user's own."""

    RED = 1


@dataclasses.dataclass
class Options:
    """Options of the user's own."""

    colour: Colour
    epochs: int = 3


class Names(list[str]):
    """A list of the user's own."""


def settings() -> Settings:
    made = Settings(lr=0.1)
    made.path = "x"  # type: ignore[attr-defined]
    return made


BESIDE: dict[str, Callable[[State], Any]] = {
    "defaultdict": lambda state: collections.defaultdict(dict, state_dict=state),
    "defaultdict of lists": lambda state: {"model": state, "log": collections.defaultdict(list, a=[1])},
    "OrderedDict of them": lambda state: collections.OrderedDict(model=state, log=collections.defaultdict(int, a=1)),
    "weights in a defaultdict": lambda state: {"model": collections.defaultdict(float, state)},
    "Counter": lambda state: {"model": state, "classes": collections.Counter("aab")},
    "deque, ChainMap, UserDict": lambda state: {
        "model": state,
        "a": [collections.deque([1], 3), collections.ChainMap({"a": 1}), collections.UserDict(a=1)],
    },
    "sets, ranges": lambda state: {"model": state, "a": [frozenset({1}), {2}, range(3), slice(1), b"x", 1j]},
    "dates": lambda state: {
        "model": state,
        "a": [
            datetime.datetime.now(datetime.UTC),
            datetime.date(2026, 1, 1),
            datetime.time(1),
            datetime.timedelta(1),
        ],
    },
    "numbers": lambda state: {"model": state, "a": [decimal.Decimal("0.1"), fractions.Fraction(1, 3), uuid.uuid4()]},
    "NumPy": lambda state: {
        "model": state,
        "a": [
            np.dtype("float32"),
            np.float16(1),
            np.datetime64("2026-01-01"),
            np.random.default_rng(0),
            np.array(["a"]),
        ],
        "b": [np.random.get_state(), np.ma.masked_array([1.0]), np.random.RandomState(0), np.zeros(2, "i4, f8")],
    },
    "partial": lambda state: {"model": state, "loss": functools.partial(nn.functional.cross_entropy, reduction="sum")},
    "paths": lambda state: {"model": state, "a": [Path("a"), PurePosixPath("b"), PureWindowsPath("c")]},
    "namespaces": lambda state: {"model": state, "a": argparse.Namespace(inner=SimpleNamespace(b=Options(Colour.RED)))},
    "enumerations": lambda state: {"model": state, Colour.RED: 1, "a": [Colour.RED, re.IGNORECASE, re.compile("a")]},
    "dict of one's own": lambda state: {"state_dict": state, "hyper_parameters": settings()},
    "list of one's own": lambda state: {"state_dict": state, "names": Names(["a"])},
    "functions and types": lambda state: {"model": state, "a": [len, int, nn.Linear, Colour, torch.relu, os.path.join]},
    "PyTorch's own": lambda state: {
        "model": state,
        "a": [torch.__version__, torch.device("cpu"), torch.float16, torch.Size([1]), torch.Generator().get_state()],
        "criterion": nn.CrossEntropyLoss(weight=torch.ones(3)),
        "optimizer": torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1),
    },
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("content", BESIDE.values(), ids=BESIDE)
def test_objects_beside_the_weights_are_passed_over(content: Callable[[State], Any], old: bool, tmp_path: Path) -> None:
    state, model = network(1).state_dict(), network(2)
    if any(isinstance(each, nn.Module | type) for each in tree_leaves(content(state))):
        old = False  # the old format holds the source code of modules, which PyTorch's restricted reader refuses
    torch.save(content(state), tmp_path / "w.ckpt", _use_new_zipfile_serialization=not old)
    assert read_into(model, tmp_path / "w.ckpt")[1] == []
    assert_holds(model, state)
    assert Settings.made == []


class Attack:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *values: Any) -> None:
        self.call = function, values

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
def test_calls_of_the_system_are_refused(old: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for attack, name in (
        (Attack(os.system, f"touch {trace}"), r"(posix|nt)\.system"),
        (Attack(eval, f"open({str(trace)!r}, 'w')"), r"builtins\.eval"),
        (Attack(subprocess.check_output, ["touch", str(trace)]), r"(subprocess|commands)\.check_output"),
    ):
        content = {"model": network().state_dict(), "a": attack}
        torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
        with pytest.raises(NetworkError, match=rf"holds {name}, whose code would have to run"):
            read_weights(tmp_path / "w.pt")
    assert not trace.exists()


def test_a_whole_network_is_named(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam([weight := nn.Parameter(torch.ones(2))])
    weight.grad = torch.ones(2)
    optimizer.step()
    for content in (network(), {"model": network(), "optimizer": optimizer.state_dict()}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(NetworkError, match=r"a whole network, made of torch\.nn\.modules\..*model\.state_dict\(\)"):
            read_weights(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore")
def test_other_formats_are_named_with_what_to_do(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "scripted.pt")
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "exported.pt2")
    (tmp_path / "lfs.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    os.mkfifo(tmp_path / "pipe.pt")
    for name, match in (
        ("scripted.pt", r"TorchScript file; .*torch\.jit\.load\(.scripted\.pt.\)\.state_dict\(\)"),
        ("exported.pt2", r"torch\.export; .*state_dict"),
        ("lfs.safetensors", "git lfs pull"),
        ("page.pth", "a web page"),
        ("pipe.pt", "a regular file"),
    ):
        with pytest.raises(NetworkError, match=match) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


# --- recorded --------------------------------------------------------------------------------------------------------


def test_what_was_changed_is_recorded_with_the_run(data: lct.Data, tmp_path: Path) -> None:
    recipe = lct.NetworkConfig(
        model="vgg-lct", model_args={"width": 2}, num_outputs=3, in_channels=1, image_size=8, groups=2
    )
    state = build_network(recipe).main_state_dict()
    torch.save({"state_dict": prefixed({k: v.half() for k, v in state.items()}, "module.")}, tmp_path / "w.pt")
    with pytest.warns(NetworkWarning, match=r"names without 'module\.'; \d+ tensors converted from float16"):
        built = build_network(recipe, weights=str(tmp_path / "w.pt"))
    run = lct.train(built, data, lct.TrainConfig(epochs=1, batch_size=32), run_dir=tmp_path / "run")
    recorded = json.loads((run.path / "config.json").read_text())["network"]
    assert recorded["weights"] == str(tmp_path / "w.pt")
    assert recorded["weights_note"].startswith("taken from 'state_dict'; names without 'module.'; ")
