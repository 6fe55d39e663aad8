"""A split in memory: it yields normalised batches, augmented by batched tensor code."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lctprune.data.preprocessing import (
    NO_AUGMENTATION,
    Augmentation,
    Normalization,
    draw_shifts,
    randaugment,
    shift_and_flip,
)
from lctprune.data.sampling import shuffled_order
from lctprune.data.splits import Batch, Split
from lctprune.errors import DataError
from lctprune.losses import class_numbers
from lctprune.utils.transfer import sent

RESIDENT = 0.1  # largest fraction of CUDA's free memory that the inputs of a split may take


class TensorSplit(Split):
    """A split whose samples are held in memory, as tensors.

    Args:
        inputs: uint8 images [n, height, width, channels]; int64 token numbers [n, time], whose zeros at the end are
            padding that batches are freed of; or floating-point inputs of any shape [n, ...]. Or a function that
            returns one of these, called when the first batch is asked for.
        targets: class numbers (integers of any width, or booleans; in batches int64) or numbers to predict (floating
            point), [n, ...].
        normalization: mean and deviation by which images are normalised.
        augmentation: random changes of images, in `shuffled` alone.

    Raises:
        DataError: there are no samples, or not as many targets as inputs.
    """

    def __init__(
        self,
        inputs: Tensor | Callable[[], Tensor],
        targets: Tensor,
        normalization: Normalization | None = None,
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        self._inputs = inputs
        self._targets = targets
        self._device = torch.device("cpu")
        self._balanced = False
        self.normalization = normalization
        self.augmentation = augmentation
        if len(targets) == 0 or (isinstance(inputs, Tensor) and len(inputs) != len(targets)):
            count = f"{len(inputs)} inputs and " if isinstance(inputs, Tensor) else ""
            raise DataError(
                f"a split got {count}{len(targets)} targets; it needs one target per input, and at least one"
            )

    @property
    def targets(self) -> Tensor:
        """All targets, in order."""
        return self._targets

    @property
    def inputs(self) -> Tensor:
        """All inputs, as they were given."""
        if not isinstance(self._inputs, Tensor):
            self._inputs = self._inputs()
        return self._inputs

    def on_device(self, device: str) -> TensorSplit:
        """Return this split for training on a device: images become floating-point numbers there, not before.

        Where all inputs take little of CUDA's free memory they are copied once, and augmented there too.

        Args:
            device: device of the inputs in batches; token numbers and targets stay on the CPU.
        """
        if torch.device(device).type == "cpu" or self.inputs.dtype == torch.int64:
            return self
        inputs = self.inputs.to(device) if _is_small(self.inputs, device) else self.inputs
        there = TensorSplit(inputs, self.targets, self.normalization, self.augmentation)
        there._device, there._balanced = torch.device(device), self._balanced
        return there

    def balanced(self) -> TensorSplit:
        """Return this split with shuffled batches in which each class comes equally often."""
        even = copy.copy(self)
        even._balanced = True
        return even

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield every sample once, in order."""
        for start in range(0, len(self.targets), batch_size):
            stop = start + batch_size
            yield self._prepared(self.inputs[start:stop]), class_numbers(self.targets[start:stop])

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Yield full batches in an order by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(batch_size, len(self.targets))
        order = shuffled_order(self.targets, generator, balanced=self._balanced)
        mirrored = self._mirrored(seed)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            indices = order[start : start + batch_size]
            if self.inputs.dtype == torch.uint8:
                size = (self.inputs.shape[1], self.inputs.shape[2])
                draws = draw_shifts(indices, mirrored[indices], size, self.augmentation.crop, generator)
                inputs = shift_and_flip(self.inputs, sent(draws, self.inputs.device))
                if magnitude := self.augmentation.magnitude:
                    seeds = torch.randint(2**62, (len(indices),), generator=generator).tolist()
                    pairs = zip(inputs, seeds, strict=True)
                    inputs = torch.stack([randaugment(image, magnitude, each) for image, each in pairs])
            else:
                inputs = self.inputs[sent(indices, self.inputs.device)]
            yield self._prepared(inputs), class_numbers(self.targets[indices])

    def _mirrored(self, seed: int) -> Tensor:
        """Choose the images that a pass mirrors, [n]: a random half, and all others in the next pass.

        Two passes show every image from both sides (alternating flip: Jordan 2024, arXiv 2404.00498). For that, the
        half is the same for all seeds.
        """
        if not self.augmentation.flip:
            return torch.zeros(len(self.targets), dtype=torch.bool)
        half = torch.rand(len(self.targets), generator=torch.Generator().manual_seed(0)) < 0.5
        return half ^ bool(seed % 2)

    def _prepared(self, inputs: Tensor) -> Tensor:
        if inputs.dtype == torch.int64:
            return inputs[:, : max(1, int((inputs != 0).sum(1).max()))]
        inputs = sent(inputs, self._device)
        if inputs.dtype != torch.uint8:
            return inputs
        return (self.normalization or Normalization((0.0,), (1.0,))).apply(inputs)


def _is_small(inputs: Tensor, device: str) -> bool:
    if torch.device(device).type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info()
    return inputs.nbytes <= RESIDENT * free
