"""Convert a network to a program of torch.export, with any batch size and, where it can be, any length of sequences."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lctprune.errors import ExportError
from lctprune.exporting.comparing import free_sizes, is_sequence
from lctprune.exporting.copying import conversion, copied, quiet
from lctprune.utils.modules import evaluation_mode

TRACED_BATCH = 5  # a size of 1 would become a constant
PRIVATE = ("stack_trace", "source_fn_stack", "from_node")  # notes on a node that quote the source code, with its paths


class Program(NamedTuple):
    """A network as torch.export gives it.

    Attributes:
        exported: the program, on the CPU.
        length: only length of sequences that it takes; None where it takes any, or inputs are no sequences.
        free: names of the first sizes of the input, which are free.
    """

    exported: ExportedProgram
    length: int | None
    free: tuple[str, ...]


class CopyingInput(nn.Module):
    """A network that adds 0 to its input, which no compiler leaves out: so it has the strides that were compiled.

    PyTorch takes images of one channel for contiguous in two layouts. Compiled code reckons with one, and hands what it
    is given to convolutions, which answer in the layout that they find: outputs were wrong for the other.
    """

    zero: Tensor

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("zero", torch.zeros((), dtype=dtype))  # a constant would be left out

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute outputs, [batch, ...]."""
        outputs: Tensor = self.network(inputs + self.zero)
        return outputs


def to_program(
    network: nn.Module,
    example: Tensor,
    *,
    name: str,
    is_fixed: bool = False,
    largest_batch: int | None = None,
    copies_input: bool = False,
) -> Program:
    """Convert a network to a program of torch.export.

    Only the shape of the example is used: none of its values are in the program.

    Args:
        network: module; changing it later does not change the result.
        example: input, [batch, ...].
        name: name of the format, for a message.
        is_fixed: whether all sizes but the batch's are those of the example.
        largest_batch: upper bound of the batch size, for a format that plans its memory; by default there is none.
        copies_input: whether the program copies inputs that are no integers, see `CopyingInput`.

    Raises:
        ExportError: the network cannot be converted, or the program takes one batch size only.
    """
    with conversion(network, name), torch.no_grad(), quiet(), evaluation_mode(network):
        own = copied(network)
        source = network if own is None else own.cpu()
        if copies_input and example.is_floating_point():
            source = CopyingInput(source, example.dtype).eval()
        blank = torch.ones(TRACED_BATCH, *example.shape[1:], dtype=example.dtype)
        names = ("batch",) if is_fixed else free_sizes(example)
        with _recurrent_layers_kept():
            size = Dim.AUTO if largest_batch is None else Dim.AUTO(max=largest_batch)
            sizes = dict.fromkeys(range(len(names)), size)
            exported = torch.export.export(source, (blank,), dynamic_shapes=(sizes,), strict=False)
        batch, *constants = _constant_sizes(exported)
        if batch is not None:
            raise ExportError(
                f"{type(network).__name__} cannot be converted to {name}: it holds the batch size as a constant; "
                "nothing was written"
            )
        _forget_sources(exported)
    fixed = constants[0] if is_sequence(example) else None
    return Program(exported, fixed, names if fixed is None else names[:1])


def program_bytes(network: nn.Module, program: Program) -> memoryview:
    """Return the content of a .pt2 file.

    Args:
        network: original, for a message.
        program: result of `to_program`.

    Raises:
        ExportError: it cannot be saved.
    """
    buffer = io.BytesIO()
    with conversion(network, "pt2"), quiet():
        torch.export.save(program.exported, buffer)
    return buffer.getbuffer()


def _constant_sizes(exported: ExportedProgram) -> list[int | None]:
    """Return the sizes of the program's input, with None for those that are free."""
    (name,) = exported.graph_signature.user_inputs
    (node,) = (node for node in exported.graph.nodes if node.op == "placeholder" and node.name == name)
    return [size if isinstance(size, int) else size.node.maybe_as_int() for size in node.meta["val"].shape]


def _forget_sources(exported: ExportedProgram) -> None:
    for module in exported.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in PRIVATE:
                    node.meta.pop(key, None)


@contextmanager
def _recurrent_layers_kept() -> Iterator[None]:
    """Keep LSTM and GRU layers whole, for sequences of any length: torch.export writes a copy of each step otherwise.

    Where PyTorch has no such decomposition, the length becomes a constant, which `Program.length` tells.
    """
    operations = (torch.ops.aten.lstm.input, torch.ops.aten.gru.input)
    try:
        from torch.export import _patches

        decompositions = (
            _patches.register_lstm_while_loop_decomposition(),
            _patches.register_gru_while_loop_decomposition(),
        )
    except (ImportError, AttributeError):  # before PyTorch 2.13
        yield
        return
    with ExitStack() as stack:
        for decomposition in decompositions:
            stack.enter_context(decomposition)
        _forget_dispatch(operations)  # what was looked up before stays in use otherwise
        try:
            yield
        finally:
            stack.close()
            _forget_dispatch(operations)


def _forget_dispatch(operations: tuple[torch._ops.OpOverload, ...]) -> None:
    for operation in operations:
        operation._dispatch_cache.clear()
