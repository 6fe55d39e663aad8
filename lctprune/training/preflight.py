"""A preflight check on two samples: what would make a training fail is found before it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lctprune.data.dataset import Data
from lctprune.errors import ConfigError, DataError, NetworkError, first_line
from lctprune.measure.scores import score_samples
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import device_of, evaluation_mode, shared_tensor

SAMPLES = 2


def require_trainable(network: LocalCriticNetwork, data: Data, *, freeze_main: bool = False) -> None:
    """Run every module of the network once, on samples of the validation split.

    Args:
        network: network on any device, in any mode.
        data: data that the network is to be trained on.
        freeze_main: whether only critics are trained, so that groups may have tensors in common.

    Raises:
        NetworkError: the network does not run on the samples, a module changes its input in place, two modules that
            are trained separately hold one tensor, or a state dict holds something other than tensors.
        ConfigError: outputs of this shape cannot be scored against these targets.
        DataError: targets for training or validation are of classes that the outputs do not have.
    """
    modules = {f"group {index}": group for index, group in enumerate(network.groups)}
    modules |= {f"critic {index}": critic for index, critic in enumerate(network.critics)}
    _require_tensors(modules)
    if shared := shared_tensor([*network.critics] if freeze_main else list(modules.values())):
        raise NetworkError(f"two groups or critics hold {shared}, but are trained separately; give each its own")
    inputs, targets = (tensor.to(device_of(network)) for tensor in next(data.val.batches(SAMPLES)))
    inputs = inputs.clone()  # a layer that changes it in place is refused only after it has done so
    outputs = []
    with evaluation_mode(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for index, group, critic in network.parts():
            inputs = _run(f"group {index}", group, inputs)
            outputs.append(inputs if critic is None else _run(f"critic {index}", critic, inputs))
    for output in outputs:
        _require_score(output, targets)
    for name, split in (("training", data.train), ("validation", data.val)):
        _require_classes(name, split.targets, outputs)


def _require_classes(name: str, targets: Tensor, outputs: Sequence[Tensor]) -> None:
    """Refuse class numbers that cross-entropy does not take; -100 marks a sample without a class."""
    if targets.is_floating_point():
        return
    classes, highest, named = min(output.shape[1] for output in outputs), int(targets.max()), targets[targets != -100]
    if highest >= classes or (named < 0).any():
        wrong = highest if highest >= classes else int(named.min())
        raise DataError(f"the {name} split has a target of {wrong}; the outputs have classes 0 to {classes - 1}")


def _require_tensors(modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            if not isinstance(value, Tensor):
                raise NetworkError(
                    f"{name} keeps a {type(value).__name__} in its state dict, as {key}; a checkpoint holds tensors"
                )


def _run(name: str, module: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    version = inputs._version
    try:
        output = module(inputs)
    except Exception as error:  # whatever the module's own code raises
        raise NetworkError(f"{name} does not run on an input of {list(inputs.shape)}: {first_line(error)}") from error
    if not isinstance(output, Tensor):
        raise NetworkError(f"{name} gives a {type(output).__name__}; it must give one tensor")
    if inputs._version != version:
        raise NetworkError(f"{name} changes its input in place; give its first layer inplace=False")
    return output


def _require_score(output: Tensor, targets: Tensor) -> None:
    try:
        score_samples(output, targets)
    except ValueError as error:
        raise ConfigError(
            f"outputs of {list(output.shape)} cannot be scored against targets of {list(targets.shape)} ({error}); "
            "give class numbers for [batch, classes, ...], or as many numbers as there are outputs"
        ) from error
