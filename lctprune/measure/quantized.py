"""Add candidates in 8-bit integers: each exit quantized, scored as the file that would be deployed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lctprune.config.metric import AUTO
from lctprune.config.runtime import Runtime, parse_runtime
from lctprune.data.splits import Split
from lctprune.errors import ConfigError
from lctprune.exporting.quantizing import CALIBRATION_SAMPLES, INT8_FORMATS, quantized
from lctprune.measure.batch_dependence import scoring_batch
from lctprune.measure.candidates import INT8, ScoredExit
from lctprune.measure.runtimes import FORMATS, fastest, runtimes_for
from lctprune.measure.scores import score_networks

PICKING_REPEATS = 20  # timed calls by which "auto" picks a runtime


def int8_runtimes(runtime: str) -> list[str]:
    """List the runtimes to quantize for: the one that is named, or for "auto" all that are installed and can.

    Raises:
        ConfigError: the runtime is unknown, not installed, or runs no 8-bit integers.
    """
    found = [each for each in runtimes_for(runtime) if FORMATS[each] in INT8_FORMATS]
    if not found:
        raise ConfigError(
            f"precision int8 does not run in {runtime if runtime != 'auto' else 'torchscript'}; take --runtime "
            "onnxruntime, openvino or auto (extras: lctprune[onnx], lctprune[openvino])"
        )
    return found


def calibration_samples(train: Split) -> Tensor:
    """Return samples of the training split to calibrate on, the same ones each time, as training sees them."""
    return next(inputs for inputs, _ in train.shuffled(CALIBRATION_SAMPLES, seed=0))


def with_quantized(
    exits: Sequence[ScoredExit],
    calibration: Tensor,
    split: Split,
    runtime: Runtime,
    *,
    metric: str = AUTO,
    latency_batch: int = 1,
) -> tuple[list[ScoredExit], Runtime]:
    """Add each exit in 8-bit integers, scored by its file in the runtime.

    Args:
        exits: scored exits, the main network last.
        calibration: samples of training, [n, ...].
        split: samples that accuracy and loss are measured on.
        runtime: onnxruntime or openvino; auto takes the one in which the quantized networks are fastest.
        metric: setting of the metric.
        latency_batch: samples per timed call.

    Returns:
        Each exit after its form in 8-bit integers; and the runtime.

    Raises:
        ConfigError: the runtime is not installed, or runs no 8-bit integers.
        ExportError: an exit cannot be quantized.
    """
    forms = {
        each: [quantized(exit.network, calibration, FORMATS[each]) for exit in exits] for each in int8_runtimes(runtime)
    }
    example = calibration[:1].expand(latency_batch, *calibration.shape[1:]).contiguous()
    used = fastest(forms, example, repeats=PICKING_REPEATS).runtime if len(forms) > 1 else next(iter(forms))
    found = {each.name: each.batch_dependence for each in exits if each.batch_dependence}
    batch_size = scoring_batch(found, latency_batch=latency_batch)
    scores = score_networks(forms[used], split, batch_size=batch_size, metric=metric)
    both = []
    for position, (exit, network) in enumerate(zip(exits, forms[used], strict=True)):
        name = f"{exit.name}, {INT8}"
        both += [exit._replace(name=name, network=network, scores=scores, position=position), exit]
    return both, parse_runtime(used)
