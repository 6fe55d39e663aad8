"""Call a network of one input for one tensor, as models of Hugging Face `transformers` need to be called.

Such a model gets its attention mask, made from the padding's token id, and returns an object with `logits`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.errors import PartitionError

PREFIX = "model."  # of the network's parameters in OneTensor


class OneTensor(nn.Module):
    """A network that takes one tensor and returns one.

    Args:
        model: network; of a model of `transformers` the input is pixel values or token ids, and the output its logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.input_name = str(getattr(model, "main_input_name", "")) if is_transformers_model(model) else ""
        takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        config: Any = getattr(model, "config", None)
        has_padding = self.input_name == "input_ids" and takes_mask
        self.padding_id: int | None = getattr(config, "pad_token_id", None) if has_padding else None
        self.vocabulary: int | None = getattr(config, "vocab_size", None) if self.input_name else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output, or the logits of a model that returns more.

        Raises:
            PartitionError: it is something else than one tensor.
        """
        output = logits_of(self.output(x))
        if isinstance(output, Tensor):
            return output
        raise PartitionError(f"{type(self.model).__name__} returns neither one tensor nor an object with logits")

    def output(self, x: Tensor) -> Any:
        """Return whatever the network returns."""
        if not self.input_name:
            return self.model(x)
        arguments: dict[str, Any] = {self.input_name: x, "return_dict": True}
        if self.padding_id is not None:
            arguments["attention_mask"] = (x != self.padding_id).to(x.dtype)
        return self.model(**arguments)

    def batch_of(self, example: Tensor, count: int) -> Tensor:
        """Make a batch of different samples like an example; the last has padding where it is token ids.

        Args:
            example: input, [batch, ...], of which the first sample is used.
            count: number of samples.
        """
        generator = torch.Generator().manual_seed(0)
        if example.is_floating_point():
            batch = example[:1].detach().repeat_interleave(count, 0)
            noise = torch.randn(batch.shape, generator=generator).to(batch)
            return batch + noise
        if example.dim() != 2:
            return example[:1].repeat_interleave(count, 0)
        highest = self.vocabulary or int(example.max()) + 1
        shape = (count, max(2, example.shape[1]))
        batch = torch.randint(0, max(2, highest), shape, generator=generator).to(example)
        padding = self.padding_id or 0
        batch = torch.where(batch == padding, 1 if padding == 0 else 0, batch)
        if count > 1:
            batch[-1, -(shape[1] // 2) :] = padding
        return batch

    def variants(self, example: Tensor) -> Iterator[Tensor]:
        """Yield batches of several sizes, and of several lengths where they are sequences."""
        batch = self.batch_of(example, 3)
        yield batch
        yield batch[:1]
        if is_sequence(example):
            yield batch[:, : -(-batch.shape[1] // 2)]
            yield batch[:1, :1]


def is_sequence(example: Tensor) -> bool:
    """Tell whether an input is a sequence: of token ids, [batch, steps], or of vectors, [batch, steps, features]."""
    return example.dim() == (3 if example.is_floating_point() else 2)


def is_transformers_model(model: nn.Module) -> bool:
    """Tell whether a network is a model of Hugging Face `transformers`, which is not imported for it."""
    library = sys.modules.get("transformers.modeling_utils")
    return library is not None and isinstance(model, library.PreTrainedModel)


def logits_of(output: Any) -> Any:
    """Return the `logits` of an output that has them, or else the output."""
    return getattr(output, "logits", output)
