"""What training could not do with a network and a data set, found before anything is begun: a trial on two samples."""

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
    """Run the network on samples of the validation split, every module once.

    Args:
        network: on any device, in any mode.
        data: what it is to be trained on.
        freeze_main: critics alone are to be trained, so groups may share what they like.

    Raises:
        NetworkError: it does not run on them, a module changes its input in place, two parts that are trained apart
            hold the same tensor, or a state dict holds something else than tensors.
        ConfigError: there is no measure of how good such outputs are for such targets.
        DataError: targets for training or validation are of classes that the outputs do not have.
    """
    parts = {f"group {index}": group for index, group in enumerate(network.groups)}
    parts |= {f"critic {index}": critic for index, critic in enumerate(network.critics)}
    _require_tensors(parts)
    if shared := shared_tensor([*network.critics] if freeze_main else list(parts.values())):
        raise NetworkError(f"two groups or critics hold {shared}, and are trained apart; give each its own")
    inputs, targets = (tensor.to(device_of(network)) for tensor in next(data.val.batches(SAMPLES)))
    inputs = inputs.clone()  # a layer that changes it in place is refused, but not before it has
    outputs = []
    with evaluation_mode(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for index, group in enumerate(network.groups):
            inputs = _run(f"group {index}", group, inputs)
            is_last = index == len(network.critics)
            outputs.append(inputs if is_last else _run(f"critic {index}", network.critics[index], inputs))
    for output in outputs:
        _require_score(output, targets)
    for name, split in (("training", data.train), ("validation", data.val)):
        _require_classes(name, split.targets, outputs)


def _require_classes(name: str, targets: Tensor, outputs: Sequence[Tensor]) -> None:
    """As cross-entropy takes them: -100 is of a sample without a class."""
    if targets.is_floating_point():
        return
    classes, highest, named = min(output.shape[1] for output in outputs), int(targets.max()), targets[targets != -100]
    if highest >= classes or (named < 0).any():
        wrong = highest if highest >= classes else int(named.min())
        raise DataError(f"the {name} split has a target of {wrong}; outputs are of the classes 0 to {classes - 1}")


def _require_tensors(parts: dict[str, nn.Module]) -> None:
    for name, part in parts.items():
        for key, value in part.state_dict().items():
            if not isinstance(value, Tensor):
                raise NetworkError(
                    f"{name} keeps a {type(value).__name__} in its state dict, as {key}; a checkpoint holds tensors"
                )


def _run(name: str, module: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    version = inputs._version
    try:
        output = module(inputs)
    except Exception as error:  # whatever the module's own code raises
        raise NetworkError(f"{name} does not run on {list(inputs.shape)} of the data: {first_line(error)}") from error
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
