"""Run an exported file in its own runtime, and in a process of its own where this file is started as a program.

It imports nothing but the standard library, numpy and the runtime, so that a file which needs more does not pass.

    python -P runtimes.py FORMAT FILE INPUTS.npz OUTPUTS.npz THREADS
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPEATS, WARMUP = 30, 3  # timed calls, untimed ones

ArrayRunner = Callable[["NDArray[Any]"], "NDArray[Any]"]


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
    """Open a file of PyTorch; that of aoti is machine code, which is loaded into this process.

    Args:
        format: torchscript, pt2 or aoti.
        file: its path as text, or its content as a binary stream.

    Returns:
        Function from inputs to outputs, tensors [batch, ...].
    """
    import torch

    if format == "aoti":
        return _compiled(file)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=FutureWarning)
        load: Any = torch.jit.load if format == "torchscript" else torch.export.load
        return load(file) if format == "torchscript" else load(file).module()


def _compiled(file: Any) -> Any:
    from torch import _inductor

    if isinstance(file, str):
        return _inductor.aoti_load_package(file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        path.write_bytes(file.read())
        return _inductor.aoti_load_package(str(path))


def opened(format: str, file: Any, threads: int | None = None, *, weights: bytes | None = None) -> ArrayRunner:
    """Open an exported file in its own runtime.

    Args:
        format: torchscript, pt2, onnx, openvino, executorch or aoti.
        file: its path as text, or its content as a binary stream.
        threads: CPU threads; by default as many as the runtime takes, and for PyTorch those that are set. ExecuTorch
            has them for the whole process, see `set_executorch_threads`.
        weights: content of the file of weights beside it, where the format has one and `file` is a stream.

    Returns:
        Function from inputs to outputs, arrays [batch, ...].
    """
    if format == "openvino":
        return _openvino(file, threads, weights)
    if format == "executorch":
        return _executorch(file)
    return _onnx(file, threads) if format == "onnx" else _torch(format, file, threads)


def session(file: Any, threads: int | None) -> Any:
    """Open an .onnx file, a path as text or a binary stream, in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    source = file if isinstance(file, str) else file.read()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _onnx(file: Any, threads: int | None) -> ArrayRunner:
    network = session(file, threads)
    name = network.get_inputs()[0].name

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        outputs: NDArray[Any] = network.run(None, {name: inputs})[0]
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


def set_executorch_threads(threads: int) -> None:
    """Set the number of CPU threads of ExecuTorch: before this process opens a file, which keeps them."""
    with _native_stderr_closed():
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

        _unsafe_reset_threadpool(threads)


def _executorch(file: Any) -> ArrayRunner:
    import numpy
    import torch

    # it names files of the system there that it has not found, and warns of its interface
    with _native_stderr_closed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.runtime import Runtime

        content = Path(file).read_bytes() if isinstance(file, str) else file.read()
        program = Runtime.get().load_program(content)  # it owns the memory of its method, and keeps the method
        largest = program.load_method("forward").metadata.input_tensor_meta(0).sizes()[0]

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        parts = torch.split(torch.from_numpy(inputs), largest)
        return numpy.concatenate([program.load_method("forward").execute((part,))[0].numpy() for part in parts])

    return run


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Send what libraries write to the process's standard error nowhere, inside the block."""
    sys.stderr.flush()
    with Path(os.devnull).open("w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


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
        format: torchscript, pt2, onnx, openvino, executorch or aoti.
        file: its path as text, or its content as a binary stream.
        inputs: arrays of inputs, [batch, ...] each.
        threads: CPU threads.
        weights: content of the file of weights beside it, as in `opened`.
    """
    runtime = {"onnx": "onnxruntime", "openvino": "openvino", "executorch": "executorch.runtime"}.get(format, "torch")
    importlib.import_module(runtime)
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
    return Trial(outputs, 1e3 * (loaded - start), statistics.median(times[WARMUP:]), version(runtime.partition(".")[0]))


def _main(format: str, file: str, given: str, results: str, threads: str) -> None:
    import numpy

    if format == "executorch":
        set_executorch_threads(int(threads))
    with numpy.load(given) as arrays:
        trial = tried(format, file, {name: arrays[name] for name in arrays.files}, int(threads))
    if "lctprune" in sys.modules:
        raise ImportError("lctprune was imported")
    numpy.savez(results, allow_pickle=False, **trial.outputs)
    sys.stdout.write(json.dumps(trial._replace(outputs={})._asdict()))  # to the process that started this one


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    _main(*sys.argv[1:])
