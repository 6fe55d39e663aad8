"""Run an exported file in its own runtime, and in a process of its own where this file is started as a program.

It imports nothing but the standard library, numpy and the runtime, so that a file which needs more does not pass.

    python -P runtimes.py FORMAT FILE INPUTS.npz OUTPUTS.npz THREADS
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPEATS, WARMUP = 30, 3  # timed calls, untimed ones

ArrayRunner = Callable[["NDArray[Any]"], "NDArray[Any]"]
StagedRunner = Callable[["NDArray[Any]"], "tuple[NDArray[Any], NDArray[Any]]"]


class Trial(NamedTuple):
    """What an exported file gave and took in its own runtime.

    Attributes:
        outputs: its outputs for each array of inputs.
        load_ms: time of opening it, in milliseconds.
        latency_ms: median time of a call on the first array, in milliseconds.
        version: version of the runtime.
    """

    outputs: dict[str, NDArray[Any]]
    load_ms: float
    latency_ms: float
    version: str


def torch_module(format: str, file: Any) -> Any:
    """Open a file of PyTorch.

    Args:
        format: torchscript or pt2.
        file: its path as text, or its content as a binary stream.

    Returns:
        Function from inputs to outputs, tensors [batch, ...].
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=FutureWarning)
        load: Any = torch.jit.load if format == "torchscript" else torch.export.load
        return load(file) if format == "torchscript" else load(file).module()


def opened(format: str, file: Any, threads: int | None = None, *, weights: bytes | None = None) -> ArrayRunner:
    """Open an exported file in its own runtime.

    Args:
        format: torchscript, pt2, onnx or openvino.
        file: its path as text, or its content as a binary stream.
        threads: CPU threads; by default as many as the runtime takes, and for PyTorch those that are set.
        weights: content of the file of weights beside it, where the format has one and `file` is a stream.

    Returns:
        Function from inputs to outputs, arrays [batch, ...].
    """
    if format == "openvino":
        return _openvino(file, threads, weights)
    return _onnx(file, threads) if format == "onnx" else _torch(format, file, threads)


def staged(files: Sequence[Any], thresholds: Sequence[float | None]) -> StagedRunner:
    """Open a progressive network of one ONNX file per stage, which gives logits, and what the next stage takes.

    Args:
        files: content of each file, as a binary stream or a path as text.
        thresholds: confidence at which a sample leaves each stage; the last one's is not used.

    Returns:
        Function from inputs to logits, [batch, classes], and the stage at which each sample left, [batch].
    """
    import numpy

    runs = [_session(file, None) for file in files]

    def leave(inputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        places, left = numpy.arange(len(inputs)), numpy.zeros(len(inputs), numpy.int64)
        outputs: NDArray[Any] | None = None
        for index, (session, threshold) in enumerate(zip(runs, thresholds, strict=True)):
            logits, *hidden = session.run(None, {"input": inputs})
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


def _session(file: Any, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    source = file if isinstance(file, str) else file.read()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _onnx(file: Any, threads: int | None) -> ArrayRunner:
    session = _session(file, threads)
    name = session.get_inputs()[0].name

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        outputs: NDArray[Any] = session.run(None, {name: inputs})[0]
        return outputs

    return run


def _openvino(file: Any, threads: int | None, weights: bytes | None) -> ArrayRunner:
    import openvino

    core = openvino.Core()
    model = core.read_model(file) if isinstance(file, str) else core.read_model(file.read(), weights)
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}  # not the CPU's bf16
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        outputs: NDArray[Any] = request.infer([inputs], share_inputs=True)[0]
        return outputs

    return run


def _torch(format: str, file: Any, threads: int | None) -> ArrayRunner:
    import torch

    if threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    model = torch_module(format, file)

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            outputs: NDArray[Any] = model(torch.from_numpy(inputs)).numpy()
        return outputs

    return run


def tried(
    format: str, file: Any, inputs: dict[str, NDArray[Any]], threads: int, *, weights: bytes | None = None
) -> Trial:
    """Open a file, run it on arrays, and time it on the first one.

    Args:
        format: torchscript, pt2, onnx or openvino.
        file: its path as text, or its content as a binary stream.
        inputs: arrays of inputs, [batch, ...] each.
        threads: CPU threads.
        weights: content of the file of weights beside it, as in `opened`.
    """
    import importlib

    runtime = importlib.import_module({"onnx": "onnxruntime", "openvino": "openvino"}.get(format, "torch"))
    start = time.perf_counter()
    run = opened(format, file, threads, weights=weights)
    loaded = time.perf_counter()
    outputs = {name: run(array) for name, array in inputs.items()}
    first = next(iter(inputs.values()))
    times = []
    for _ in range(WARMUP + REPEATS):
        begin = time.perf_counter()
        run(first)
        times.append(1e3 * (time.perf_counter() - begin))
    return Trial(outputs, 1e3 * (loaded - start), statistics.median(times[WARMUP:]), str(runtime.__version__))


def _main(format: str, file: str, given: str, results: str, threads: str) -> None:
    import numpy

    with numpy.load(given) as arrays:
        trial = tried(format, file, {name: arrays[name] for name in arrays.files}, int(threads))
    if "lctprune" in sys.modules:
        raise ImportError("lctprune was imported")
    numpy.savez(results, allow_pickle=False, **trial.outputs)
    sys.stdout.write(json.dumps(trial._replace(outputs={})._asdict()))  # to the process that started this one


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    _main(*sys.argv[1:])
