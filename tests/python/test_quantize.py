"""quantize and dequantize are bit-exact with MLX for finite input; the documented deviations are what they say."""

from __future__ import annotations

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting

mlx_oracle = pytest.importorskip("mlx_oracle", reason="MLX, the oracle, is not installed")
mx = pytest.importorskip("mlx.core")


def difficult_matrix(rng, K, dtype):
    """Rows of ordinary weights, of widely different magnitudes, constant, zero, one-sided, and with ties for rounding."""
    ordinary = rng.standard_normal((6, K))
    spread = rng.standard_normal((4, K)) * np.exp2(rng.integers(-12, 12, (4, K)))
    special = np.stack(
        [
            np.full(K, 0.375),
            np.zeros(K),
            -np.abs(rng.standard_normal(K)),
            np.abs(rng.standard_normal(K)),
            rng.integers(-8, 9, K) / 2.0,
            np.where(np.arange(K) % 7 == 0, 6.0, rng.integers(-12, 13, K) / 4.0),
        ]
    )
    return np.concatenate([ordinary, spread, special]).astype(dtype).reshape(2, 8, K)


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("setting", mlx_oracle.of_mlx(oracle.SETTINGS), ids=str)
def test_quantize_gives_the_bits_of_mlx(rng, setting, dtype):
    w = difficult_matrix(rng, 256, dtype)
    ours = gqmm.quantize(w, **setting.arguments())
    theirs = mlx_oracle.call(mx.quantize, w, **setting.arguments())
    assert len(ours) == len(theirs) == (3 if setting.mode == "affine" else 2)
    for name, mine, other in zip(("codes", "scales", "biases"), ours, theirs, strict=False):
        assert oracle.same_bits(mine, other), name


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("setting", mlx_oracle.of_mlx(oracle.SETTINGS), ids=str)
def test_dequantize_gives_the_bits_of_mlx(rng, setting, dtype):
    weights = oracle.random_weights(rng, setting, (2,), 5, 256, dtype=dtype)
    ours = gqmm.dequantize(*weights.arrays(), **setting.arguments())
    assert oracle.same_bits(ours, mlx_oracle.call(mx.dequantize, *weights.arrays(), **setting.arguments()))
    assert ours.dtype == (dtype if setting.mode == "affine" else oracle.bfloat16)


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("setting", mlx_oracle.of_mlx(oracle.DEFAULTS), ids=str)
def test_dequantize_to_a_type_gives_the_bits_of_mlx(rng, setting, dtype):
    weights = oracle.random_weights(rng, setting, (2,), 5, 256)
    ours = gqmm.dequantize(*weights.arrays(), **setting.arguments(), dtype=dtype)
    theirs = mlx_oracle.call(mx.dequantize, *weights.arrays(), **setting.arguments(), dtype=mlx_oracle.MLX_DTYPES[dtype])
    assert oracle.same_bits(ours, theirs)


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("largest", [0.7, 3.0, 448.0])
def test_nvfp4_with_a_global_scale_gives_the_bits_of_mlx(rng, dtype, largest):
    w = rng.standard_normal((4, 64)).astype(dtype)
    global_scale = np.array(largest, np.float32)
    try:
        theirs = mlx_oracle.call(mx.quantize, w, mode="nvfp4", global_scale=global_scale)
    except (ValueError, RuntimeError) as error:
        pytest.skip(f"MLX cannot do this on a CPU: {error}")
    ours = gqmm.quantize(w, mode="nvfp4", global_scale=global_scale)
    assert all(map(oracle.same_bits, ours, theirs))
    back = gqmm.dequantize(*ours, mode="nvfp4", global_scale=global_scale)
    assert back.dtype == oracle.float32
    assert oracle.same_bits(back, mlx_oracle.call(mx.dequantize, *theirs, mode="nvfp4", global_scale=global_scale))


def test_settings_default_to_those_of_mlx(rng):
    w = rng.standard_normal((2, 128)).astype(np.float32)
    assert all(map(oracle.same_bits, gqmm.quantize(w), gqmm.quantize(w, 64, 4, "affine")))
    for setting in oracle.MICROSCALING:
        explicit = gqmm.quantize(w, **setting.arguments())
        assert all(map(oracle.same_bits, gqmm.quantize(w, mode=setting.mode), explicit))


@pytest.mark.parametrize("mode", [s.mode for s in oracle.DEFAULTS if s.format.scales == "float8_e8m0fnu"])
def test_tiny_groups_get_the_smallest_scale(mode):
    """MLX's byte wraps round below 2^-127; gqmm clamps."""
    w = np.full((1, 32), 2.0**-140, np.float32)
    _, scales = gqmm.quantize(w, mode=mode)
    assert scales.item() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", [s.mode for s in oracle.MICROSCALING])
def test_floating_point_modes_take_finite_values_only(mode, value):
    w = np.ones((2, 64), np.float32)
    w[1, 40] = value
    with pytest.raises(ValueError, match=rf"\[quantize\] w\[1, 40\] = -?(nan|inf).*{mode}"):
        gqmm.quantize(w, mode=mode)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_affine_groups_with_nan_or_infinity_get_nan_scales(value):
    w = np.ones((2, 128), np.float32)
    w[1, 70] = value
    _, scales, _ = gqmm.quantize(w)
    assert np.array_equal(np.isnan(scales), [[False, False], [False, True]])


def test_nvfp4_takes_any_multiple_of_16(rng):
    w = rng.standard_normal((3, 48)).astype(np.float32)
    codes, scales = gqmm.quantize(w, mode="nvfp4")
    assert codes.shape == (3, 6)
    assert scales.shape == (3, 3)
    wide = np.pad(w, ((0, 0), (0, 16)))
    assert np.array_equal(codes, gqmm.quantize(wide, mode="nvfp4")[0][:, :6])


@pytest.mark.parametrize("dtype", ["float16", np.float16, np.dtype(np.float16), mx.float16], ids=str)
def test_float16_may_be_any_librarys(rng, dtype):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (), 2, 64)
    assert gqmm.dequantize(*weights.arrays(), dtype=dtype).dtype == oracle.float16


@pytest.mark.parametrize("dtype", ["bfloat16", oracle.bfloat16, oracle.bfloat16.type, mx.bfloat16], ids=str)
def test_bfloat16_may_be_any_librarys(rng, dtype):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (), 2, 64)
    assert gqmm.dequantize(*weights.arrays(), dtype=dtype).dtype == oracle.bfloat16
