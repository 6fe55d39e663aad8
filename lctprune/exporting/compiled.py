"""A network that Inductor compiles once, for measuring it and for its file."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor, nn

from lctprune.exporting.comparing import Runner
from lctprune.exporting.writing import Converted, converted_and_opened


class CompiledNetwork(nn.Module):
    """A network with its package of Inductor, which is compiled when it is first asked for.

    Args:
        original: traceable module, on the CPU.
        example: input, [batch, ...].
    """

    def __init__(self, original: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.original, self.example = original, example

    @cached_property
    def package(self) -> tuple[Converted, Runner]:
        """The content of its file, and what runs it.

        Raises:
            ConfigError: there is no C++ compiler.
            ExportError: the network cannot be compiled.
        """
        ((converted, runner),) = converted_and_opened(self.original, self.example, ["aoti"])
        return converted, runner

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the package on inputs, [batch, ...]."""
        return self.package[1](inputs)
