"""A preflight check on a few samples: what would make a training fail is found before it begins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lctprune.config.metric import AUTO
from lctprune.data.dataset import Data
from lctprune.data.splits import sample_count
from lctprune.errors import ConfigError, DataError, DataWarning, NetworkError, first_line
from lctprune.losses import Loss, is_own
from lctprune.measure.target_kinds import (
    as_classes,
    default_metric,
    differ,
    float_classes,
    kind_of,
    require_classes,
    require_fit,
)
from lctprune.network import LocalCriticNetwork
from lctprune.training.finiteness import require_finite_inputs, require_finite_targets, require_finite_weights
from lctprune.utils.modules import device_of, evaluation_mode, shared_tensor, training_for_now

SAMPLES = 2
TOO_FEW = "more than 1 value per channel"  # PyTorch's words for batch norm of one value


def require_trainable(
    network: LocalCriticNetwork,
    data: Data,
    *,
    freeze_main: bool = False,
    loss: Loss | None = None,
    metric: str = AUTO,
    batch_size: int = SAMPLES,
) -> str:
    """Run every module of the network once, on samples of the validation split, and look at weights and data.

    Args:
        network: network on any device, in any mode.
        data: data that the network is to be trained on.
        freeze_main: whether only critics are trained, so that groups may have tensors in common.
        loss: loss per sample; None for the default one.
        metric: setting of the metric.
        batch_size: samples per step.

    Returns:
        The metric, where it was "auto" the one that suits the targets.

    Raises:
        NetworkError: the network does not run on the samples, a module changes its input in place, two modules that
            are trained separately hold one tensor, a state dict holds something other than tensors, or weights are not
            finite.
        ConfigError: outputs of this shape cannot be scored against these targets, or the targets do not have the
            metric; or batch norm is to be trained on single samples.
        DataError: targets for training or validation are of classes that the outputs do not have, or all of one class;
            or inputs or targets are not finite.
    """
    modules = {f"group {index}": group for index, group in enumerate(network.groups)}
    modules |= {f"critic {index}": critic for index, critic in enumerate(network.critics)}
    _require_tensors(modules)
    if shared := shared_tensor([*network.critics] if freeze_main else list(modules.values())):
        raise NetworkError(f"two groups or critics hold {shared}, but are trained separately; give each its own")
    require_finite_weights(network)
    inputs, targets = next(data.val.batches(SAMPLES))
    outputs = _outputs(network, inputs)
    for output in outputs:
        _require_score(output, targets, loss)
    metric = _metric(outputs, data, loss, metric)
    require_finite_inputs("training", data.train, lambda rows: _trained_on(network, rows, freeze_main), data.columns)
    require_finite_inputs("validation", data.val, lambda rows: _outputs(network, rows), data.columns)
    _require_batch_norm(network, data, batch_size, freeze_main=freeze_main)
    return metric


def _outputs(network: LocalCriticNetwork, inputs: Tensor) -> list[Tensor]:
    """Return the outputs of all exits."""
    inputs = inputs.to(
        device_of(network)
    ).clone()  # a layer that changes it in place is refused only after it has done so
    outputs = []
    with evaluation_mode(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for index, group, critic in network.parts():
            inputs = _run(f"group {index}", group, inputs)
            outputs.append(inputs if critic is None else _run(f"critic {index}", critic, inputs))
    return outputs


def output_shape(network: LocalCriticNetwork, data: Data) -> Sequence[int]:
    """Return the shape of one sample's output."""
    inputs, _ = next(data.val.batches(SAMPLES))
    return _outputs(network, inputs)[-1].shape[1:]


def _trained_on(network: LocalCriticNetwork, inputs: Tensor, freeze_main: bool) -> list[Tensor]:
    """Return the outputs of all exits in training mode, for inputs that each come twice: batch norm needs a pair."""
    with training_for_now(network), torch.no_grad():
        network.groups.train(not freeze_main)
        return network.exits(torch.cat([inputs, inputs]).to(device_of(network)))


def _metric(outputs: Sequence[Tensor], data: Data, loss: Loss | None, metric: str) -> str:
    """Look at all targets; return the metric."""
    shape = min((output.shape[1:] for output in outputs), key=lambda shape: shape[:1])
    for name, split in (("training", data.train), ("validation", data.val)):
        targets = split.targets
        if targets.is_floating_point():
            if not is_own(loss):  # a loss may leave out what is not finite
                require_finite_targets(name, targets)
        elif tuple(shape[1:]) == tuple(targets.shape[1:]) and shape:
            require_classes(targets, shape, loss, f"the {name} split has", device=outputs[-1].device)
        kind = kind_of(shape, targets, loss, device=outputs[-1].device)
        if kind == "numbers" and data.classes and (reason := float_classes(targets)):
            raise DataError(f"{reason}, or leave out the names of classes for a regression")
        if kind == "classes" and 1 < len(targets) == sample_count(split):  # a stream tells its first target only
            _require_two_classes(name, targets, shape[0])
    chosen = default_metric(kind, shape) if metric == AUTO else metric
    if chosen == "r2" and len(targets) == sample_count(data.val) and not differ(targets):
        text = "the targets of the validation split are all the same, or only one, so R2 is not defined"
        if metric != AUTO:
            raise ConfigError(f"{text}; give `metric=loss`, or samples that differ")
        warnings.warn(f"{text}; exits are compared by their loss", DataWarning, stacklevel=4)
        chosen = "loss"
    require_fit(chosen, kind, shape, data.val.targets, loss)
    if chosen == "map" and kind == "labels" and not (data.val.targets == 1).any():
        raise DataError("no sample of the validation split has any label, so mAP is not defined; give another metric")
    return chosen


def _require_two_classes(name: str, targets: Tensor, classes: int) -> None:
    """Refuse class numbers from which nothing can be learnt."""
    numbers = as_classes(targets, classes)
    numbers = numbers[numbers >= 0]
    if not len(numbers):
        raise DataError(f"every target of the {name} split is one that the loss ignores; give it some with a class")
    if name == "training" and int(numbers.min()) == int(numbers.max()):
        raise DataError(
            f"every target of the {name} split is of class {int(numbers[0])}; there must be at least 2 classes to tell "
            "apart"
        )


def _require_batch_norm(network: LocalCriticNetwork, data: Data, batch_size: int, *, freeze_main: bool) -> None:
    """Refuse to train batch norm on single samples, where it has one value per channel."""
    if min(batch_size, sample_count(data.train)) > 1:
        return
    inputs, _ = next(data.train.batches(1))
    with training_for_now(network), torch.no_grad():
        network.groups.train(not freeze_main)
        try:
            network.exits(inputs.to(device_of(network)))
        except ValueError as error:
            if TOO_FEW in str(error):
                few = "the training split has a single sample" if batch_size > 1 else "batch_size is 1"
                raise ConfigError(
                    f"{few}, and batch norm needs at least 2 values per channel; give more samples per step "
                    "(`batch_size=2`)"
                ) from error


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


def _require_score(output: Tensor, targets: Tensor, loss: Loss | None) -> None:
    if is_own(loss):
        return
    try:
        kind_of(output.shape[1:], targets, loss)
    except DataError:
        pass  # found again for the whole split, which is then named
    except ValueError as error:
        remedy = "class numbers, as integers (targets.long()), for [batch, classes, ...], or as many numbers as outputs"
        if output.shape == targets.shape and not targets.is_floating_point():
            remedy = "targets.argmax(1) if each sample has one class, or a loss of your own (BCE) if it has several"
        raise ConfigError(
            f"outputs of {list(output.shape)} cannot be scored against targets of {list(targets.shape)} ({error}); "
            f"give {remedy}"
        ) from error
