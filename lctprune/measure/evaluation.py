"""Measure every exit of a network in a program, in full precision and in reduced ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from lctprune.config.metric import AUTO
from lctprune.config.runtime import FULL, Precision, Runtime, parse_precisions
from lctprune.data.splits import Split
from lctprune.errors import ConfigError, ReducedNote
from lctprune.losses import Loss
from lctprune.measure.batch_dependence import dependences, scoring_batch, warn_of_batch_dependence
from lctprune.measure.candidates import Candidate, ScoredExit, exit_name, measure_costs
from lctprune.measure.reduced import calibration_samples, reduced_runtimes, with_reduced
from lctprune.measure.scores import score_exits
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import device_of


def evaluate(
    network: LocalCriticNetwork,
    split: Split,
    example: Tensor,
    *,
    loss: Loss | None = None,
    metric: str = AUTO,
    batch_size: int = 256,
    latency_batch: int = 1,
    latency_repeats: int = 50,
    runtime: Runtime = "torchscript",
    precision: str | Iterable[str] = FULL,
    train: Split | None = None,
) -> list[Candidate]:
    """Measure accuracy, loss and costs of every exit of a network.

    Exits are compared by the metric. By default that is accuracy for class numbers and for probabilities of classes
    (by the largest one), mAP for labels of 0 and 1 with a loss that falls as outputs move towards them (such as BCE),
    R2 for numbers with the default loss, and with any other loss the loss itself, of which less is better. Averages
    over classes or labels leave out those that do not occur in the split. Targets that the loss ignores do not count:
    -100, or with a loss of your own the numbers for which it is 0 whatever the output.

    Args:
        network: network on any device; its mode (train or eval) is restored.
        split: samples that accuracy and loss are measured on, such as `data.val`.
        example: input that costs are measured on, [batch, ...].
        loss: loss per sample; by default cross-entropy, or mean squared error for floating-point targets.
        metric: accuracy, balanced-accuracy, macro-f1, map, r2 or loss; "auto" for the one that suits the targets.
        batch_size: samples per batch of the pass over the split, in which each group runs once per batch.
        latency_batch: samples per timed call.
        latency_repeats: number of timed calls per exit, in turns; 0 leaves latency out.
        runtime: torchscript, onnxruntime (needs the extra `onnx`), openvino (the extra `openvino`), inductor (a C++
            compiler, and tens of seconds per exit), or auto: the fastest of the others that are installed.
        precision: int8, bf16 or fp16, or several, as "int8,fp16", for candidates in these precisions before each
            exit's own, scored as the files that the runtime runs; by default none. Runtimes: torchscript has bf16 and
            fp16, onnxruntime and openvino all three.
        train: training samples, such as `data.train`, on which int8 is calibrated.

    Returns:
        One candidate per exit, shallowest first, the main network last; with precisions several per exit.

    Raises:
        DataError: the split has no samples, or the loss ignores all of its targets.
        ConfigError: the targets do not have the metric; the runtime is unknown, not installed, or does not have a
            precision; or `train` is missing for int8.

    Warns:
        RuntimeNote: which runtime is fastest, for "auto".
        ReducedNote: an exit has no form in a precision.
        NetworkWarning: an operation has no FLOP formula, so that FLOPs are missing; or outputs depend on the rest of
            the batch, so that scores are of `latency_batch` samples per batch.
    """
    precisions = parse_precisions(precision)
    reduced_runtimes(runtime, precisions, is_cuda=device_of(network).type == "cuda")  # before anything is measured
    if precisions:
        samples = _samples(precisions, train, example).to(device_of(network))
    count = len(network.groups)
    networks = {exit_name(exit, count, network.cut_point_names): network.subnetwork(exit) for exit in range(count)}
    found = dependences(networks, split)
    batch_size = scoring_batch(found, batch_size=batch_size, latency_batch=latency_batch)
    scores = score_exits(network, split, loss=loss, batch_size=batch_size, metric=metric)
    exits = [
        ScoredExit(exit, name, subnetwork, scores, exit, batch_dependence=found.get(name, ""))
        for exit, (name, subnetwork) in enumerate(networks.items())
    ]
    warn_of_batch_dependence(found, latency_batch=latency_batch)
    if precisions:
        options: dict[str, Any] = {"loss": loss, "metric": metric, "latency_batch": latency_batch}
        exits, runtime, left_out = with_reduced(exits, precisions, samples, split, runtime, **options)
        for note in left_out:
            warnings.warn(note, ReducedNote, stacklevel=2)
    return measure_costs(exits, example, latency_batch=latency_batch, latency_repeats=latency_repeats, runtime=runtime)


def _samples(precisions: Sequence[Precision], train: Split | None, example: Tensor) -> Tensor:
    """Return the samples that reduced precisions are made with: those of training, and without int8 any."""
    if train is not None:
        return calibration_samples(train)
    if "int8" in precisions:
        raise ConfigError("int8 is calibrated on training samples: give them, train=data.train")
    return example
