"""FLOP formulas that PyTorch's FlopCounterMode lacks.

The convention is that of `lctprune.measure.costs`: 2 x the multiply-adds of matrix products and convolutions; biases,
gates, softmax, masks and interpolation count as nothing. One step of an LSTM takes 4 * hidden * (input + hidden)
multiply-adds, one step of a GRU 3 * hidden * (input + hidden). On the CPU a GRU consists of plain matrix products,
which need no formula.

Formulas get the shapes of an operation's tensors in place of the tensors, and the shape of its result as `out_shape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Shape = Sequence[int]


def onednn_lstm_flops(x: Shape, input_weight: Shape, hidden_weight: Shape, *_: Any, **__: Any) -> int:
    """Count one layer of an LSTM in one direction on the CPU.

    Args:
        x: [time, batch, input] or [batch, time, input].
        input_weight: [4 * hidden, input].
        hidden_weight: [4 * hidden, hidden].
    """
    return _recurrent_flops(x, [input_weight, hidden_weight])


def onednn_lstm_backward_flops(x: Shape, input_weight: Shape, hidden_weight: Shape, *_: Any, **__: Any) -> int:
    """Count the backward pass of such a layer: gradients of the weights, and of what they were multiplied with."""
    return 2 * _recurrent_flops(x, [input_weight, hidden_weight])


def cudnn_rnn_flops(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """Count all layers and directions of a recurrent network with any kind of cell on a GPU.

    Args:
        x: [time, batch, input] or [batch, time, input]; packed sequences are [steps, input].
        weights: for each layer and direction those of the input and the hidden state, the biases, the projection.
    """
    return _recurrent_flops(x, weights)


def mps_lstm_flops(x: Shape, _state: Any, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """Count all layers and directions of an LSTM on an Apple GPU, as `cudnn_rnn_flops` does."""
    return _recurrent_flops(x, weights)


def attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Count attention without its projections; a mask saves nothing.

    Args:
        query: [batch, heads, queries, size].
        key: [batch, heads, keys, size], or with fewer heads.
        value: as `key`, possibly with another size.
    """
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def attention_backward_flops(grad_out: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Count the backward pass of `attention_flops`."""
    return int(sdpa_backward_flop_count(grad_out, query, key, value))  # type: ignore[no-untyped-call]


def multi_head_attention_flops(
    query: Shape, key: Shape, value: Shape, width: int, heads: int, *_: Any, **__: Any
) -> int:
    """Count attention with its four projections.

    Args:
        query: [batch, queries, width].
        key: [batch, keys, width].
        value: as `key`.
        width: number of features.
        heads: number of attention heads.
    """
    batch, queries, keys = query[0], query[1], key[1]
    projections = 2 * width * width * batch * (2 * queries + 2 * keys)  # query and output; key and value
    size = width // heads
    split = [(batch, heads, length, size) for length in (queries, keys, keys)]
    return projections + attention_flops(*split)


def encoder_layer_flops(x: Shape, width: int, heads: int, *args: Any, **_: Any) -> int:
    """Count a transformer encoder layer.

    Args:
        x: [batch, length, width].
        width: number of features.
        heads: number of attention heads.
        args: further arguments of `_transformer_encoder_layer_fwd`; the 12th is the first weight of the feed-forward
            part.
    """
    hidden: int = args[11][0]  # its shape is [hidden, width]
    return multi_head_attention_flops(x, x, x, width, heads) + 2 * 2 * math.prod(x[:-1]) * width * hidden


def vector_product_flops(left: Shape, _right: Shape, *_: Any, **__: Any) -> int:
    """Count the product of a matrix, [rows, columns], and a vector, or of two vectors."""
    return 2 * math.prod(left)


def added_vector_product_flops(_added: Shape, left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    """Count the product of a matrix, [rows, columns], and a vector, to which something is added."""
    return vector_product_flops(left, right)


def added_batch_product_flops(_added: Shape, left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    """Count the products of matrices, [batch, rows, inner] and [batch, inner, columns], which are added up."""
    return 2 * math.prod(left) * right[-1]


def affine_grid_flops(*_: Any, out_shape: Shape, **__: Any) -> int:
    """Count the product of an affine map with the homogeneous coordinates of every point of a grid.

    Args:
        out_shape: [batch, ..., dimensions]; each coordinate is a sum of dimensions + 1 products.
    """
    return 2 * math.prod(out_shape) * (out_shape[-1] + 1)


def deformable_convolution_flops(_x: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Count a deformable convolution as the convolution that it is once its input has been sampled.

    Args:
        weight: [out_channels, in_channels per group, kernel height, kernel width].
        out_shape: [batch, out_channels, height, width].
    """
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def trilinear_flops(
    first: Shape,
    second: Shape,
    third: Shape,
    first_new: Sequence[int],
    second_new: Sequence[int],
    third_new: Sequence[int],
    summed: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Count a bilinear layer: the product of its first input with its weight, and of the result with its second.

    Args:
        first: first input.
        second: weight.
        third: second input.
        first_new: dimensions of the common shape that `first` does not have.
        second_new: those that `second` does not have.
        third_new: those that `third` does not have.
        summed: dimensions of the common shape that are summed.
    """
    shapes = [_expanded(first, first_new), _expanded(second, second_new), _expanded(third, third_new)]
    common = [max(sizes) for sizes in zip(*shapes, strict=True)]
    in_first_product = math.prod(common[dim] for dim in summed if dim in third_new)
    flops: int = 2 * (math.prod(common) + math.prod(common) // max(1, in_first_product))
    return flops


def distance_flops(left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    """Count the distances of all pairs of rows as the product of the two matrices, whatever the norm.

    Args:
        left: [..., rows, features].
        right: [..., other rows, features].
    """
    return 2 * math.prod(left) * right[-2]


def own_distance_flops(rows: Shape, *_: Any, **__: Any) -> int:
    """Count the distances of all pairs of rows of one matrix, [rows, features], each pair once."""
    return rows[0] * (rows[0] - 1) * rows[1]


def time_major_convolution_flops(_x: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Count a convolution over time.

    Args:
        weight: [kernel, in_channels, out_channels].
        out_shape: [time, batch, out_channels].
    """
    return 2 * math.prod(out_shape) * math.prod(weight[:2])


def _expanded(shape: Shape, new: Sequence[int]) -> list[int]:
    expanded = list(shape)
    for dim in sorted(new):
        expanded.insert(dim, 1)
    return expanded


def _recurrent_flops(x: Shape, weights: Sequence[Shape]) -> int:
    """Count one product of each step of each sequence with each matrix; vectors among the weights are biases."""
    return 2 * math.prod(x[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) == 2)


FORMULAS: dict[str, Callable[..., int]] = {
    "aten::mkldnn_rnn_layer": onednn_lstm_flops,
    "aten::mkldnn_rnn_layer_backward": onednn_lstm_backward_flops,
    "aten::_cudnn_rnn": cudnn_rnn_flops,
    "aten::miopen_rnn": cudnn_rnn_flops,
    "aten::_lstm_mps": mps_lstm_flops,
    "aten::_scaled_dot_product_flash_attention_for_cpu": attention_flops,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": attention_backward_flops,
    "aten::_scaled_dot_product_fused_attention_overrideable": attention_flops,
    "aten::_scaled_dot_product_fused_attention_overrideable_backward": attention_backward_flops,
    "aten::_scaled_dot_product_attention_math_for_mps": attention_flops,
    "aten::_native_multi_head_attention": multi_head_attention_flops,
    "aten::_transformer_encoder_layer_fwd": encoder_layer_flops,
    "aten::mv": vector_product_flops,
    "aten::dot": vector_product_flops,
    "aten::vdot": vector_product_flops,
    "aten::addmv": added_vector_product_flops,
    "aten::addbmm": added_batch_product_flops,
    "aten::affine_grid_generator": affine_grid_flops,
    "aten::_trilinear": trilinear_flops,
    "aten::_cdist_forward": distance_flops,
    "aten::_pdist_forward": own_distance_flops,
    "aten::conv_tbc": time_major_convolution_flops,
    "torchvision::deform_conv2d": deformable_convolution_flops,
}


def missing_formulas() -> dict[Any, Callable[..., int]]:
    """Map operations to formulas, as `FlopCounterMode(custom_mapping=...)` takes them.

    Operations that this PyTorch does not have are left out, and so are those with a formula of PyTorch's or of the
    user's own.
    """
    operations = {operation_of(name): formula for name, formula in FORMULAS.items()}
    return {
        operation: formula
        for operation, formula in operations.items()
        if operation is not None and operation not in flop_registry
    }


def operation_of(name: str) -> Any:
    """Return PyTorch's operation of a name such as "aten::mv"; None where it has none."""
    namespace, _, operation = name.partition("::")
    return getattr(getattr(torch.ops, namespace), operation, None)
