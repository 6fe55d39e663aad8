"""FLOP formulas that PyTorch's FlopCounterMode lacks, and the operations that count as nothing.

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

# Operations without multiply-adds worth counting that PyTorch tags neither as pointwise, nor reduction, nor view.
FREE = frozenset(
    (
        "_adaptive_avg_pool2d _adaptive_avg_pool3d _embedding_bag _embedding_bag_forward_only _local_scalar_dense "
        "_log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _pack_padded_sequence "
        "_pad_packed_sequence _prelu_kernel _safe_softmax _softmax _to_copy _unique2 _unsafe_index _unsafe_view "
        "_upsample_bicubic2d_aa _upsample_bilinear2d_aa _weight_norm_interface adaptive_max_pool2d "
        "adaptive_max_pool3d addr allclose arange avg_pool2d avg_pool3d bernoulli bernoulli_ bincount blackman_window "
        "block_diag bucketize cat channel_shuffle col2im complex constant_pad_nd copy_ cudnn_batch_norm cummax cummin "
        "cumprod cumsum diag_embed diagonal_scatter embedding embedding_renorm_ empty empty_like empty_strided equal "
        "exponential_ eye fill_ flip fractional_max_pool2d fractional_max_pool3d full full_like gather glu "
        "grid_sampler_2d grid_sampler_3d hamming_window hann_window hardsigmoid_ hardswish hardswish_ histc im2col "
        "index index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put_ index_reduce "
        "index_select isin kthvalue linalg_cross linspace log_sigmoid_forward logcumsumexp logspace masked_scatter "
        "max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d median mode multinomial nanmedian "
        "native_batch_norm native_dropout native_group_norm native_layer_norm new_empty new_empty_strided new_full "
        "new_ones new_zeros nonzero normal_ ones ones_like pixel_shuffle pixel_unshuffle polar put put_ rand "
        "rand_like randint randint_like randn randn_like random_ randperm reflection_pad1d reflection_pad2d "
        "reflection_pad3d repeat replication_pad1d replication_pad2d replication_pad3d resize_ roll rot90 "
        "rrelu_with_noise scalar_tensor scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ "
        "searchsorted select_scatter slice_scatter sort stack take topk trace tril tril_indices triu triu_indices "
        "uniform_ unsafe_split upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest2d "
        "upsample_trilinear3d zero_ zeros zeros_like"
    ).split()
)


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
