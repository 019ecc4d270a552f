"""The truth that the tests compare with: a float64 evaluation of the packed bits, and its error bound.

docs/reference/numerics.md derives the bound.

Written in NumPy from the documented formats alone; it shares no code with the library, which only says which formats there are
and what ml_dtypes calls their codes and scales.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import gqmm
import ml_dtypes
import numpy as np

bfloat16 = np.dtype(ml_dtypes.bfloat16)
float16 = np.dtype(np.float16)
float32 = np.dtype(np.float32)
FLOATS = [float32, float16, bfloat16]

UNIT_ROUNDOFF = {float32: 2.0**-24, float16: 2.0**-11, bfloat16: 2.0**-8}
SMALLEST_SUBNORMAL = {float32: 2.0**-149, float16: 2.0**-24, bfloat16: 2.0**-133}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the table of quantization modes."""

    mode: str
    bits: int
    group_size: int

    def __str__(self) -> str:
        return f"{self.mode}-{self.bits}bit-g{self.group_size}"

    def arguments(self) -> dict[str, Any]:
        return {"mode": self.mode, "bits": self.bits, "group_size": self.group_size}

    @property
    def format(self) -> gqmm.Format:
        return next(f for f in gqmm.formats() if (f.mode, f.bits) == (self.mode, self.bits))

    @property
    def codes(self) -> np.dtype | None:
        """The type of a code; None: an unsigned integer."""
        return np.dtype(getattr(ml_dtypes, self.format.codes)) if self.format.codes.startswith("float") else None

    @property
    def scales(self) -> np.dtype | None:
        """The type of a scale; None: one of FLOATS."""
        return np.dtype(getattr(ml_dtypes, self.format.scales)) if self.format.scales else None

    @property
    def takes_float_path(self) -> bool:
        """Whether codes are wider floats than bytes of integers can stand for."""
        return self.codes is not None and self.bits == 8


MODES = list(dict.fromkeys(f.mode for f in gqmm.formats()))
SETTINGS = [Setting(f.mode, f.bits, group_size) for f in gqmm.formats() for group_size in f.group_sizes]
AFFINE = [setting for setting in SETTINGS if setting.codes is None]
MICROSCALING = [setting for setting in SETTINGS if setting.codes is not None]
DEFAULTS = [Setting(f.mode, f.bits, f.default_group_size) for f in gqmm.formats() if f.is_default]


def unpack(w: np.ndarray, bits: int) -> np.ndarray:
    """Codes of rows of uint32 words: a little-endian bit stream, low bits first."""
    stream = np.unpackbits(np.ascontiguousarray(w).view(np.uint8), axis=-1, bitorder="little")
    codes = stream.reshape(*stream.shape[:-1], -1, bits)
    return (codes * (1 << np.arange(bits))).sum(-1)


def code_values(setting: Setting) -> np.ndarray:
    """The value of every code, float64."""
    codes = np.arange(1 << setting.bits, dtype=np.uint8)
    return (codes if setting.codes is None else codes.view(setting.codes)).astype(np.float64)


def scale_values(setting: Setting, scales: np.ndarray) -> np.ndarray:
    if setting.scales == ml_dtypes.float8_e8m0fnu:  # 255 is NaN to ml_dtypes, Inf to MLX
        return np.where(scales == 255, np.inf, np.ldexp(1.0, scales.astype(np.int64) - 127))
    return (scales if setting.scales is None else scales.view(setting.scales)).astype(np.float64)


@dataclasses.dataclass
class Weights:
    """Quantized matrices (…, N, K) when transpose, else (…, K, N), as the operators take them."""

    setting: Setting
    w: np.ndarray
    scales: np.ndarray
    biases: np.ndarray | None
    transpose: bool = True
    global_scale: np.ndarray | None = None

    def arrays(self) -> tuple[np.ndarray, ...]:
        return (self.w, self.scales) if self.biases is None else (self.w, self.scales, self.biases)

    def arguments(self) -> dict[str, Any]:
        arguments = self.setting.arguments() | {"transpose": self.transpose}
        return arguments if self.global_scale is None else arguments | {"global_scale": self.global_scale}

    def _scales(self) -> np.ndarray:
        scales = scale_values(self.setting, self.scales)
        if self.global_scale is not None:
            factors = (np.asarray(self.global_scale, np.float32) / np.float32(448.0 * 6.0)).astype(np.float64)
            scales = scales * (factors if factors.size == 1 else factors[..., None, None])
        return np.repeat(scales, self.setting.group_size, -1)

    def _biases(self) -> np.ndarray | float:
        return 0.0 if self.biases is None else np.repeat(self.biases.astype(np.float64), self.setting.group_size, -1)

    def _as_n_by_k(self, a: np.ndarray) -> np.ndarray:
        return matrices(a if self.transpose else a.swapaxes(-1, -2))

    def values(self) -> np.ndarray:
        """ŵ, float64 (matrices, N, K)."""
        codes = code_values(self.setting)[unpack(self.w, self.setting.bits)]
        return self._as_n_by_k(self._scales() * codes + self._biases())

    def group_magnitudes(self) -> np.ndarray:
        """G of every weight's group: max(|scale|·max|value|, |bias|), float64 (matrices, N, K)."""
        largest = np.max(np.abs(code_values(self.setting)), where=np.isfinite(code_values(self.setting)), initial=0.0)
        scales = np.abs(self._scales()) * largest
        return self._as_n_by_k(np.broadcast_to(np.maximum(scales, np.abs(self._biases())), scales.shape))


def random_weights(
    rng: np.random.Generator,
    setting: Setting,
    leading: tuple[int, ...],
    N: int,
    K: int,
    *,
    dtype: np.dtype = float32,
    transpose: bool = True,
    with_global_scale: bool = False,
) -> Weights:
    """Weights of random bits: every finite code occurs."""
    rows, along = (N, K) if transpose else (K, N)
    w = rng.integers(0, 1 << 32, (*leading, rows, along * setting.bits // 32), dtype=np.uint32)
    if setting.takes_float_path:
        bytes_of_w = w.view(np.uint8)
        bytes_of_w[~np.isfinite(bytes_of_w.view(setting.codes).astype(np.float32))] = 1
    shape = (*leading, rows, along // setting.group_size)
    if setting.scales is None:
        scales = (rng.uniform(0.5, 1.5, shape) / (1 << setting.bits) * rng.choice([-1, 1], shape)).astype(dtype)
        return Weights(setting, w, scales, rng.standard_normal(shape).astype(dtype), transpose)
    low, high = (120, 130) if setting.scales == ml_dtypes.float8_e8m0fnu else (1, 0x60)
    scales = rng.integers(low, high, shape, dtype=np.uint8)
    global_scale = rng.uniform(1, 9, leading).astype(np.float32) if with_global_scale else None
    return Weights(setting, w, scales, None, transpose, global_scale)


def result_dtype(x: np.ndarray, weights: Weights) -> np.dtype:
    types = {x.dtype}
    if weights.biases is not None:
        types |= {weights.scales.dtype, weights.biases.dtype}
    return types.pop() if len(types) == 1 else float32


def matrices(a: np.ndarray) -> np.ndarray:
    """The matrices of the last two dimensions in one row, as flat indices count them."""
    return a.reshape(np.prod(a.shape[:-2], dtype=int), *a.shape[-2:])


@dataclasses.dataclass
class Reference:
    """What a product should be and how far from it each element may lie."""

    y: np.ndarray
    bound: np.ndarray
    magnitude: np.ndarray
    dtype: np.dtype


def reference(x: np.ndarray, weights: Weights, lhs: np.ndarray, rhs: np.ndarray, precision: str = "default") -> Reference:
    """y[i] = x[lhs[i]] @ ŵ[rhs[i]].T for index arrays that broadcast."""
    lhs, rhs = np.broadcast_arrays(lhs, rhs)
    rows = matrices(x).astype(np.float64)[lhs]
    y = rows @ weights.values()[rhs].swapaxes(-1, -2)
    magnitude = np.abs(rows) @ weights.group_magnitudes()[rhs].swapaxes(-1, -2)
    dtype = result_dtype(x, weights)
    K = x.shape[-1]
    float_path = weights.setting.takes_float_path or not weights.transpose
    slices = {"default": 3 if dtype == float32 else 2, "fast": 1, "float32": 3}[precision]
    p = 22 if float_path else {1: 6, 2: 13, 3: 22}[slices]
    additions = K if float_path else 2 * K / weights.setting.group_size
    c = 6 + np.sqrt(additions)
    tiny = SMALLEST_SUBNORMAL[dtype] + additions * 2.0**-149
    bound = UNIT_ROUNDOFF[dtype] * np.abs(y) + c * 2.0**-p * magnitude + tiny
    return Reference(y, bound, magnitude, dtype)


def plain_evaluation_bound(expected: Reference, K: int) -> np.ndarray:
    """How far a float32 evaluation such as MLX's may lie from the truth: each weight is rounded twice (error below
    2·2^-24·2G), each product once, and each of K additions once."""
    return (K + 5) * 2.0**-24 * 2 * expected.magnitude


def assert_within(actual: np.ndarray, expected: Reference | np.ndarray, bound: np.ndarray | None = None) -> None:
    """Fails with the worst element, both values, and the bound."""
    if isinstance(expected, Reference):
        assert actual.dtype == expected.dtype
        expected, bound = expected.y, expected.bound
    assert actual.shape == expected.shape
    error = np.abs(actual.astype(np.float64) - expected)
    excess = np.where(error <= bound, 0.0, np.where(np.isnan(error), np.inf, error - bound))
    if excess.any():
        worst = np.unravel_index(np.argmax(excess), excess.shape)
        raise AssertionError(
            f"worst at {tuple(map(int, worst))}: got {actual[worst]}, expected {expected[worst]}, error {error[worst]:.3g}, "
            f"bound {bound[worst]:.3g}; {np.count_nonzero(excess)} of {excess.size} elements are out of bounds"
        )


def bits_of(a: np.ndarray) -> np.ndarray:
    """The bytes of an array's elements, for comparisons that tell -0 from 0 and equal NaNs."""
    return np.frombuffer(a.tobytes(), np.uint8)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(bits_of(a), bits_of(b))


# --- Functions of activations ---------------------------------------------------------------------------------------------

erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x, approximate):
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + erf(x / math.sqrt(2)))
