"""The operations that count as nothing: they have no multiply-adds worth counting."""

from __future__ import annotations

from typing import Any

import torch

# PyTorch's own that it tags neither as pointwise nor as view; it tags reductions, but only in later versions.
_ATEN = frozenset(
    (
        "_adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _assert_tensor_metadata "
        "_batch_norm_no_update _batch_norm_with_update _embedding_bag _embedding_bag_forward_only _fused_rms_norm "
        "_linalg_check_errors _local_scalar_dense _log_softmax _native_batch_norm_legit "
        "_native_batch_norm_legit_no_training _pack_padded_sequence _pad_packed_sequence _prelu_kernel "
        "_safe_softmax _softmax _to_copy _unique2 _unsafe_index _unsafe_view _upsample_bicubic2d_aa "
        "_upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d "
        "_weight_norm_interface adaptive_max_pool2d adaptive_max_pool3d addr all allclose amax amin aminmax any "
        "arange argmax argmin avg_pool2d avg_pool3d bartlett_window bernoulli bernoulli_ bincount blackman_window "
        "block_diag bucketize cat cauchy_ channel_shuffle col2im complex constant_pad_nd copy_ count_nonzero "
        "cudnn_batch_norm cummax cummin cumprod cumsum dequantize diag_embed diagonal_scatter dist embedding "
        "embedding_renorm_ empty empty_like empty_strided equal exponential_ eye "
        "fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask fill fill_ flip "
        "fractional_max_pool2d fractional_max_pool3d full full_like gather geometric_ glu grid_sampler_2d "
        "grid_sampler_3d hamming_window hann_window hardsigmoid_ hardswish hardswish_ histc histogram im2col index "
        "index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put index_put_ index_reduce "
        "index_select isin kaiser_window kthvalue lift_fresh_copy linalg_cross linalg_vector_norm linspace "
        "log_normal_ log_sigmoid_forward logcumsumexp logspace logsumexp masked_fill_ masked_scatter masked_select "
        "max max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d mean median min "
        "miopen_batch_norm mish_ mode multinomial nanmedian nansum native_batch_norm native_channel_shuffle "
        "native_dropout native_group_norm native_layer_norm new_empty new_empty_strided new_full new_ones "
        "new_zeros nll_loss2d_forward nll_loss_forward nonzero nonzero_static norm normal_ ones ones_like "
        "pixel_shuffle pixel_unshuffle poisson polar prod put put_ quantize_per_tensor rand rand_like randint "
        "randint_like randn randn_like random_ randperm reflection_pad1d reflection_pad2d reflection_pad3d renorm "
        "repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d resize_ roll rot90 "
        "rrelu_with_noise rrelu_with_noise_ scalar_tensor scatter scatter_ scatter_add scatter_add_ scatter_reduce "
        "scatter_reduce_ searchsorted select_scatter slice_scatter sort stack std std_mean sum take topk trace "
        "tril tril_indices triu triu_indices uniform_ unique_consecutive unique_dim unsafe_split "
        "upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d "
        "upsample_nearest3d upsample_trilinear3d var var_mean zero_ zeros zeros_like"
    ).split()
)
# torchvision's, which sample, pool and choose
_TORCHVISION = frozenset("nms ps_roi_align ps_roi_pool roi_align roi_pool".split())
_FREE = {"aten": _ATEN, "prims": _ATEN, "torchvision": _TORCHVISION}


def is_free(operation: Any) -> bool:
    """Tell whether an operation of `torch.ops`, with its overload, counts as nothing."""
    tags = operation.tags
    return bool(
        operation.is_view
        or torch.Tag.pointwise in tags
        or torch.Tag.inplace_view in tags
        or operation.overloadpacket.__name__ in _FREE.get(operation.namespace, ())
    )
