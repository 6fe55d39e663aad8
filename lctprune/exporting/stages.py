"""Run a progressive network of one ONNX file per stage, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lctprune.exporting.runtimes import session

if TYPE_CHECKING:
    from numpy.typing import NDArray

StagedRunner = Callable[["NDArray[Any]"], "tuple[NDArray[Any], NDArray[Any]]"]


def staged(files: Sequence[Any], thresholds: Sequence[float | None]) -> StagedRunner:
    """Open a progressive network of one ONNX file per stage, which gives logits, and what the next stage takes.

    Args:
        files: content of each file, as a binary stream or a path as text.
        thresholds: confidence at which a sample leaves each stage; the last one's is not used.

    Returns:
        Function from inputs to logits, [batch, classes], and the stage at which each sample left, [batch].
    """
    import numpy

    runs = [session(file, None) for file in files]

    def leave(inputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        places, left = numpy.arange(len(inputs)), numpy.zeros(len(inputs), numpy.int64)
        outputs: NDArray[Any] | None = None
        for index, (stage, threshold) in enumerate(zip(runs, thresholds, strict=True)):
            logits, *hidden = stage.run(None, {"input": inputs})
            # the largest probability: 1 / sum(exp(logit - largest logit))
            sure = 1 / numpy.exp(logits - logits.max(1, keepdims=True)).sum(1)
            leaves = sure >= threshold if hidden and threshold is not None else numpy.ones(len(inputs), bool)
            outputs = numpy.empty((len(left), logits.shape[1]), logits.dtype) if outputs is None else outputs
            outputs[places[leaves]], left[places[leaves]] = logits[leaves], index
            if leaves.all():
                break
            inputs, places = hidden[0][~leaves], places[~leaves]
        assert outputs is not None  # there is a stage
        return outputs, left

    return leave
