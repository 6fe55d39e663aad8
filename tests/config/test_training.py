"""Settings of training: what is refused, how they are resolved, and how they are recorded."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

import lctprune as lct
from lctprune.config.ramp import Ramp
from lctprune.config.training import ResolvedTrainConfig


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": -1},
        {"critic_lr": 0.0},
        {"batch_norm": "frozen"},
        {"batch_size": 0},
        {"critic_period": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"warmup": 1.0},
        {"label_smoothing": 1.0},
        {"schedule": "linear"},
        {"method": "greedy"},
        {"critic_optimizer": "rmsprop"},
        {"optimizer": "lion"},
        {"lr": -1.0},
        {"precision": "fp8"},
        {"seed": -1},
        {"matching": 1.5},
        {"matching": "0:2"},
        {"matching": "a:b"},
        {"matching": "nan"},
        {"matching": "0:0.5:1"},
        {"distill": 1.5},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(lct.ConfigError, match=next(iter(changes))):
        lct.TrainConfig(**changes)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(lct.ConfigError, match=r"'tpu'.* cpu, cuda"):
        lct.TrainConfig(device="tpu")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(lct.ConfigError, match="this machine has cpu only"):
            lct.TrainConfig(device="cuda").resolved()


def test_precision_auto_is_resolved() -> None:
    assert lct.TrainConfig().resolved().precision in ("bf16", "fp16", "fp32")
    assert lct.TrainConfig(precision="fp32").resolved().precision == "fp32"
    assert lct.TrainConfig().resolved(images=False).precision == "fp32"
    assert lct.TrainConfig(precision="bf16").resolved(images=False).precision == "bf16"


@pytest.mark.parametrize(
    ("given", "convolutional", "optimizer", "lr"),
    [
        ({}, True, "muon", 0.02),
        ({}, False, "adamw", 0.001),
        ({"optimizer": "adamw"}, True, "adamw", 0.001),
        ({"optimizer": "sgd"}, False, "sgd", 0.2),
        ({"lr": 0.03}, True, "muon", 0.03),
        ({"lr": 0.03}, False, "adamw", 0.03),
        ({"freeze_main": True}, True, "muon", 0.02),
    ],
    ids=str,
)
def test_the_optimiser_and_its_rate_are_resolved(
    given: dict[str, Any], convolutional: bool, optimizer: str, lr: float
) -> None:
    resolved = lct.TrainConfig(**given).resolved(convolutional=convolutional)
    assert (resolved.optimizer, resolved.lr) == (optimizer, lr)
    assert resolved.resolved(images=False, convolutional=not convolutional) == resolved


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("adamw", 1e-4, 3e-3, "keep")),
        ({"lr": 0.01}, ("adamw", 0.01, 3e-3, "keep")),
        ({"optimizer": "sgd"}, ("sgd", 3e-4, 0.01, "keep")),
        ({"critic_lr": 0.01, "batch_norm": "train"}, ("adamw", 1e-4, 0.01, "train")),
        ({"freeze_main": True}, ("muon", 0.02, 0.02, "keep")),
    ],
    ids=str,
)
def test_a_trained_network_is_not_shaken(given: dict[str, Any], expected: tuple[object, ...]) -> None:
    resolved = lct.TrainConfig(**given).resolved(pretrained=True)
    assert (resolved.optimizer, resolved.lr, resolved.critic_lr, resolved.batch_norm) == expected
    assert lct.TrainConfig(**resolved.to_dict()).resolved() == resolved


def test_ramps() -> None:
    config = lct.TrainConfig(matching="0.2:0.6", distill=0.25).resolved()
    assert [config.matching.at(progress) for progress in (0, 0.5, 1)] == pytest.approx([0.2, 0.4, 0.6])
    assert config.distill.at(0.7) == 0.25


@pytest.mark.parametrize(
    ("given", "text"), [(0, "0"), ("0.0", "0"), (0.25, "0.25"), ("0:0.50", "0:0.5"), ("0.3:0.3", "0.3"), (1, "1")]
)
def test_a_ramp_has_one_way_of_writing(given: float | str, text: str) -> None:
    ramp = Ramp.parse("distill", given)
    assert str(ramp) == text
    assert Ramp.parse("distill", text) == Ramp.parse("distill", ramp) == ramp


@pytest.mark.parametrize(
    ("given", "processes", "method"),
    [
        ({}, 1, "joint"),
        ({}, 2, "local-critic"),
        ({"freeze_main": True}, 1, "local-critic"),
        ({"matching": "0:1"}, 1, "local-critic"),
        ({"distill": 0}, 1, "local-critic"),
        ({"critic_period": 2}, 1, "local-critic"),
        ({"diagnostics": True}, 1, "local-critic"),
        ({"matching": 0.0, "distill": Ramp(0, 0.5), "critic_period": 1}, 1, "joint"),  # the defaults
        ({"method": "joint", "distill": 0}, 1, "joint"),
        ({"method": "local-critic"}, 1, "local-critic"),
        ({"method": "backprop"}, 2, "backprop"),
    ],
)
def test_auto_is_joint_training_unless_that_cannot_be_meant(given: dict[str, Any], processes: int, method: str) -> None:
    config = lct.TrainConfig(**given)
    assert config.method_in(processes) == method
    assert config.resolved().method == config.method_in(1)


def test_settings_are_recorded_as_the_constructor_takes_them() -> None:
    resolved = lct.TrainConfig(matching="0:1", distill=0.1234567, lr=0.03).resolved()
    recorded = resolved.to_dict()
    assert list(recorded) == [field.name for field in dataclasses.fields(lct.TrainConfig)]
    assert (recorded["matching"], recorded["distill"]) == ("0:1", "0.123457")
    assert json.loads(json.dumps(recorded)) == recorded
    assert lct.TrainConfig(**recorded).resolved().to_dict() == recorded
    assert resolved.resolved() == resolved


def test_resolved_settings_name_what_is_used() -> None:
    with pytest.raises(lct.ConfigError, match=r"device is 'auto'; it must be resolved.*resolved\(\)"):
        ResolvedTrainConfig(
            lr=0.1, critic_lr=0.1, matching=Ramp(0, 0), distill=Ramp(0, 0), precision="fp32", optimizer="sgd"
        )
