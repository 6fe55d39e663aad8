"""Put a network's preprocessing and the meaning of its outputs into the exported file: pixels in, probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.nn import functional

from lctprune.config.images import ImagePreprocessing

Meaning = Literal["probabilities", "independent probabilities", "values"]


class FromPixels(nn.Module):
    """A network for images as they are decoded: it resizes, crops and normalises, and gives what outputs mean.

    Images are resized in floating-point numbers, so pixels differ by up to one of 256 levels from those of Pillow,
    which rounds twice.

    Args:
        network: network for normalised images, [batch, channels, size, size].
        preprocessing: how images become squares.
        mean: mean of each channel, for pixels between 0 and 1.
        std: standard deviation of each channel.
        meaning: "probabilities" of classes that exclude each other, "independent probabilities" of labels, or "values".
        target_mean: mean of each predicted number, for values.
        target_std: standard deviation of each predicted number, for values.
    """

    mean: Tensor
    std: Tensor
    background: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: ImagePreprocessing,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        meaning: Meaning = "probabilities",
        target_mean: Sequence[float] = (0.0,),
        target_std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        self.network, self.preprocessing, self.meaning = network, preprocessing, meaning
        colour = torch.tensor(preprocessing.background or (0, 0, 0), dtype=torch.float32)
        # of grey images as Pillow makes them grey (ITU-R 601)
        grey = (colour * torch.tensor([0.299, 0.587, 0.114])).sum(0, keepdim=True).round()
        for name, values in {
            "mean": torch.tensor(mean)[:, None, None],
            "std": torch.tensor(std)[:, None, None],
            "background": (colour if len(mean) == 3 else grey.expand(len(mean)))[:, None, None],
            "target_mean": torch.tensor(target_mean),
            "target_std": torch.tensor(target_std),
        }.items():
            self.register_buffer(name, values)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images [batch, height, width, channels], of any size, to [batch, outputs]."""
        steps = self.preprocessing
        x = images.permute(0, 3, 1, 2).float()
        if steps.resize == "crop":
            x = _cropped(x, steps.shorter_side, steps.size)
        elif steps.resize == "squeeze":
            x = _resized(x, steps.size, steps.size)
        else:
            x = _padded(x - self.background, steps.size) + self.background
        output: Tensor = self.network((x / 255 - self.mean) / self.std)
        if self.meaning == "probabilities":
            return output.softmax(1)
        if self.meaning == "values":
            return output * self.target_std + self.target_mean
        return output.sigmoid()


# Sizes are computed in TorchScript, where a trace would keep those of the example, or as symbols of torch.export.


@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _cropped(x: Tensor, shorter_side: int, size: int) -> Tensor:
    """Resize the shorter side and crop the centre, as torchvision does."""
    height, width = x.shape[-2], x.shape[-1]
    if is_scripting():  # noqa: SIM108, both would be compiled
        shorter = min(height, width)
    else:
        shorter = torch.sym_min(height, width)  # type: ignore[assignment]
    height, width = shorter_side * height // shorter, shorter_side * width // shorter
    x = _resized(x, height, width)
    inside = torch.arange(size, device=x.device)  # as a copy: a view would have strides that depend on the image's size
    return x.index_select(2, inside + _half(height - size)).index_select(3, inside + _half(width - size))


@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _padded(x: Tensor, size: int) -> Tensor:
    """Resize the longer side, and fill up with zeros around the centre."""
    height, width = x.shape[-2], x.shape[-1]
    if is_scripting():  # noqa: SIM108
        longer = max(height, width)
    else:
        longer = torch.sym_max(height, width)  # type: ignore[assignment]
    height, width = (2 * height * size + longer) // (2 * longer), (2 * width * size + longer) // (2 * longer)
    if is_scripting():
        height, width = max(height, 1), max(width, 1)
    else:
        height, width = torch.sym_max(height, 1), torch.sym_max(width, 1)  # type: ignore[assignment]
    left, top = (size - width) // 2, (size - height) // 2
    x = functional.interpolate(x, [height, width], mode="bilinear", antialias=True)
    return functional.pad(x, [left, size - width - left, top, size - height - top])


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(x, [height, width], mode="bilinear", antialias=True)


def _half(number: int) -> int:
    """Halve a number of pixels; a half goes to the even number, as Python rounds."""
    half = number // 2
    return half + (number % 2) * (half % 2)
