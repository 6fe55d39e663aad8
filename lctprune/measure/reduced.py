"""Add candidates in reduced precisions: each exit in 8-bit integers or 16 bits, scored as the file to be deployed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from lctprune.config.metric import AUTO
from lctprune.config.runtime import AUTO_RUNTIME, Precision, Runtime, parse_runtime
from lctprune.data.splits import Split
from lctprune.errors import ConfigError, ExportError, first_line
from lctprune.exporting.comparing import repeated
from lctprune.exporting.formats import is_quantizing, require_extra
from lctprune.exporting.quantizing import CALIBRATION_SAMPLES, OnnxModels
from lctprune.exporting.reducing import FORMATS_OF, ReducedNetwork, reduced
from lctprune.losses import Loss
from lctprune.measure.batch_dependence import scoring_batch
from lctprune.measure.candidates import ScoredExit
from lctprune.measure.runtimes import FORMATS, fastest, runtimes_for
from lctprune.measure.scores import score_networks
from lctprune.utils.steps import stepping
from lctprune.utils.wrappers import unwrapped

PICKING_REPEATS = 20  # timed calls by which "auto" picks a runtime

_Forms = dict[tuple[int, Precision], ReducedNetwork]  # by the place of the exit
_Problems = dict[tuple[Precision, str], list[str]]  # names of exits without a form, by precision and reason


class Reduced(NamedTuple):
    """Exits with their reduced forms.

    Attributes:
        exits: each exit after its reduced forms.
        runtime: runtime that the forms are for.
        left_out: for each precision and reason a note on the exits that have no such form.
    """

    exits: list[ScoredExit]
    runtime: Runtime
    left_out: list[str]


def reduced_runtimes(runtime: str, precisions: Sequence[Precision], *, is_cuda: bool = False) -> list[str]:
    """List the runtimes to reduce for: the one that is named, or for "auto" all installed ones with the precisions.

    Raises:
        ConfigError: the runtime is unknown, not installed, or does not have a precision.
    """
    installed = runtimes_for(runtime, is_cuda=is_cuda)
    if "int8" in precisions and runtime == AUTO_RUNTIME:
        installed = [each for each in installed if is_quantizing(FORMATS[each])]
    elif "int8" in precisions:
        require_extra(FORMATS[installed[0]], quantizes=True)
    if found := [each for each in installed if _lacking(each, precisions) is None]:
        return found
    able = [each for each in FORMATS if _lacking(each, precisions) is None]
    if runtime == AUTO_RUNTIME:
        problem = f"no runtime that is installed{' and runs on CUDA' * is_cuda} has {' and '.join(precisions)}"
    else:
        problem = f"precision {_lacking(installed[0], precisions)} does not run in {installed[0]}"
    extras = ", ".join(f"lctprune[{FORMATS[each]}]" for each in able if each != "torchscript")
    others = "".join(f" or {each}" for each in able[1:])
    raise ConfigError(f"{problem}; take `runtime={able[0]}`{others}{f' (extras: {extras})' if extras else ''}")


def _lacking(runtime: str, precisions: Sequence[Precision]) -> Precision | None:
    """Return the first precision that a runtime does not have."""
    return next((each for each in precisions if FORMATS[runtime] not in FORMATS_OF[each]), None)


def calibration_samples(train: Split) -> Tensor:
    """Return samples of the training split to calibrate on, the same ones each time, as training sees them."""
    return next(inputs for inputs, _ in train.shuffled(CALIBRATION_SAMPLES, seed=0))


def with_reduced(
    exits: Sequence[ScoredExit],
    precisions: Sequence[Precision],
    samples: Tensor,
    split: Split,
    runtime: Runtime,
    *,
    loss: Loss | None = None,
    metric: str = AUTO,
    latency_batch: int = 1,
) -> Reduced:
    """Add each exit in reduced precisions, scored by its file in the runtime.

    Args:
        exits: scored exits, the main network last.
        precisions: int8, bf16, fp16.
        samples: samples of training, [n, ...], on which 8-bit integers are calibrated.
        split: samples that accuracy and loss are measured on.
        runtime: torchscript, onnxruntime or openvino; auto takes the one in which the reduced networks are fastest.
        loss: loss per sample, see `score_networks`.
        metric: setting of the metric.
        latency_batch: samples per timed call.

    Raises:
        ConfigError: the runtime is not installed, or does not have a precision.
    """
    runtimes = reduced_runtimes(runtime, precisions, is_cuda=samples.is_cuda)
    made = _made(exits, precisions, samples, runtimes, latency_batch)
    used = _picked({each: forms for each, (forms, _) in made.items()}, samples, latency_batch)
    forms, problems = made[used]
    left_out = [f"left out in {each}: {', '.join(names)} ({reason})" for (each, reason), names in problems.items()]
    if not forms:
        return Reduced(list(exits), parse_runtime(used), left_out)
    found = {each.name: each.batch_dependence for each in exits if each.batch_dependence}
    batch_size = scoring_batch(found, latency_batch=latency_batch)
    scores = score_networks([*forms.values()], split, loss=loss, batch_size=batch_size, metric=metric)
    positions = {key: position for position, key in enumerate(forms)}
    both = []
    for index, exit in enumerate(exits):
        for precision in precisions:
            if network := forms.get((index, precision)):
                name, position = f"{exit.name}, {precision}", positions[index, precision]
                both.append(exit._replace(name=name, network=network, scores=scores, position=position))
        both.append(exit)
    return Reduced(both, parse_runtime(used), left_out)


def _made(
    exits: Sequence[ScoredExit],
    precisions: Sequence[Precision],
    samples: Tensor,
    runtimes: Sequence[str],
    latency_batch: int,
) -> dict[str, tuple[_Forms, _Problems]]:
    """Reduce each exit to each precision for each runtime; return the forms, and the exits that have none."""
    made: dict[str, tuple[_Forms, _Problems]] = {each: ({}, {}) for each in runtimes}
    wanted = [*itertools.product(range(len(exits)), precisions, runtimes)]
    models: OnnxModels | None = None  # of one exit at a time
    for index, precision, runtime in stepping(
        wanted, lambda each: f"Converting {exits[each[0]].name} to {each[1]} for {each[2]}", count=len(wanted)
    ):
        network, (forms, problems) = unwrapped(exits[index].network), made[runtime]
        if models is None or models.network is not network:
            models = OnnxModels(network, samples)
        try:
            forms[index, precision] = reduced(
                network, samples, FORMATS[runtime], precision, latency_batch=latency_batch, models=models
            )
        except ExportError as error:
            reason = first_line(error).removesuffix("; nothing was written")[:200]
            problems.setdefault((precision, reason), []).append(exits[index].name)
    return made


def _picked(made: Mapping[str, _Forms], samples: Tensor, latency_batch: int) -> str:
    """Pick the runtime that has the most of the forms, and among such runtimes the one in which they are fastest."""
    most = max(map(len, made.values()))
    left = {each: forms for each, forms in made.items() if len(forms) == most}
    if len(left) == 1 or not most:
        return next(iter(left))
    example = repeated(samples[:1], latency_batch)
    return fastest({each: [*forms.values()] for each, forms in left.items()}, example, repeats=PICKING_REPEATS).runtime
