"""FLOPs of operations that PyTorch's FlopCounterMode lacks: recurrent layers, attention, products with vectors.

Importing this module registers them, once. Counted as in `lctprune.costs`: 2 x the multiply-adds of matrix products;
biases, gates, softmax and masks are nothing. A step of an LSTM is 4 * hidden * (input + hidden) multiply-adds, one of a
GRU 3 * hidden * (input + hidden); on the CPU a GRU is plain matrix products, which need no formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

Shape = Sequence[int]


def onednn_lstm_flops(x: Shape, input_weight: Shape, hidden_weight: Shape, *_: Any, **__: Any) -> int:
    """One layer of an LSTM in one direction on the CPU.

    Args:
        x: [time, batch, input] or [batch, time, input].
        input_weight: [4 * hidden, input].
        hidden_weight: [4 * hidden, hidden].
    """
    return _recurrent_flops(x, [input_weight, hidden_weight])


def onednn_lstm_backward_flops(x: Shape, input_weight: Shape, hidden_weight: Shape, *_: Any, **__: Any) -> int:
    """Its backward pass: the gradients of the weights, and of what they were multiplied with."""
    return 2 * _recurrent_flops(x, [input_weight, hidden_weight])


def cudnn_rnn_flops(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """All layers and directions of a recurrent network of any cell on a GPU.

    Args:
        x: [time, batch, input] or [batch, time, input]; packed sequences are [steps, input].
        weights: of all layers and directions: of the input, the hidden state, the biases, and the projection.
    """
    return _recurrent_flops(x, weights)


def mps_lstm_flops(x: Shape, _state: Any, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """All layers and directions of an LSTM on an Apple GPU; as `cudnn_rnn_flops`."""
    return _recurrent_flops(x, weights)


def attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Attention without its projections; a mask saves nothing.

    Args:
        query: [batch, heads, queries, size].
        key: [batch, heads, keys, size], or with fewer heads.
        value: as `key`; its size may be another.
    """
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def attention_backward_flops(grad_out: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """The backward pass of `attention_flops`."""
    return int(sdpa_backward_flop_count(grad_out, query, key, value))  # type: ignore[no-untyped-call]


def multi_head_attention_flops(
    query: Shape, key: Shape, value: Shape, width: int, heads: int, *_: Any, **__: Any
) -> int:
    """Attention with its four projections.

    Args:
        query: [batch, queries, width].
        key: [batch, keys, width].
        value: as `key`.
        width: of the model.
        heads: of the attention.
    """
    batch, queries, keys = query[0], query[1], key[1]
    projections = 2 * width * width * batch * (2 * queries + 2 * keys)  # query and output; key and value
    size = width // heads
    split = [(batch, heads, length, size) for length in (queries, keys, keys)]
    return projections + attention_flops(*split)


def encoder_layer_flops(x: Shape, width: int, heads: int, *args: Any, **_: Any) -> int:
    """A transformer encoder layer.

    Args:
        x: [batch, length, width].
        width: of the model.
        heads: of the attention.
        args: what `_transformer_encoder_layer_fwd` takes next; the 12th is the first weight of the feed-forward part.
    """
    hidden: int = args[11][0]  # of [hidden, width]
    return multi_head_attention_flops(x, x, x, width, heads) + 2 * 2 * math.prod(x[:-1]) * width * hidden


def vector_product_flops(left: Shape, _right: Shape, *_: Any, **__: Any) -> int:
    """Of a matrix, [rows, columns], with a vector; or of two vectors."""
    return 2 * math.prod(left)


def _recurrent_flops(x: Shape, weights: Sequence[Shape]) -> int:
    """Every step of every sequence is multiplied with every matrix once; the vectors among the weights are biases."""
    return 2 * math.prod(x[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) == 2)


FORMULAS: dict[str, Callable[..., int]] = {
    "mkldnn_rnn_layer": onednn_lstm_flops,
    "mkldnn_rnn_layer_backward": onednn_lstm_backward_flops,
    "_cudnn_rnn": cudnn_rnn_flops,
    "miopen_rnn": cudnn_rnn_flops,
    "_lstm_mps": mps_lstm_flops,
    "_scaled_dot_product_flash_attention_for_cpu": attention_flops,
    "_scaled_dot_product_flash_attention_for_cpu_backward": attention_backward_flops,
    "_scaled_dot_product_fused_attention_overrideable": attention_flops,
    "_scaled_dot_product_fused_attention_overrideable_backward": attention_backward_flops,
    "_scaled_dot_product_attention_math_for_mps": attention_flops,
    "_native_multi_head_attention": multi_head_attention_flops,
    "_transformer_encoder_layer_fwd": encoder_layer_flops,
    "mv": vector_product_flops,
    "dot": vector_product_flops,
    "vdot": vector_product_flops,
}


def _register() -> None:
    for name, formula in FORMULAS.items():
        operation = getattr(torch.ops.aten, name, None)  # another PyTorch may lack it, or have a formula by now
        if operation is not None and operation not in flop_registry:
            register_flop_formula(operation)(formula)


_register()
