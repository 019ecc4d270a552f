"""Any arguments: what is valid is right, what is not is a ValueError or TypeError that names the operator; nothing crashes."""

from __future__ import annotations

import gqmm
import numpy as np
import oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

relaxed = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@st.composite
def layouts(draw, a: np.ndarray) -> np.ndarray:
    """The same elements with other strides, or at another address."""
    for axis in range(a.ndim):
        change = draw(st.sampled_from(["none", "none", "reverse", "spread"]))
        if change == "reverse":
            a = np.flip(np.array(np.flip(a, axis), order="C"), axis)
        elif change == "spread":
            a = np.repeat(a, 2, axis)[tuple(slice(None, None, 2) if i == axis else slice(None) for i in range(a.ndim))]
    if draw(st.booleans()):
        order = draw(st.permutations(range(a.ndim)))
        a = np.array(a.transpose(order), order="C").transpose(np.argsort(order))
    if draw(st.booleans()):
        odd = np.frombuffer(bytearray(a.nbytes + 1), np.uint8)[1:].view(a.dtype).reshape(a.shape)
        odd[...] = a
        a = odd
    return a


@st.composite
def valid_calls(draw):
    """A call of gather_qmm that must succeed, with the index arrays that it implies."""
    setting = draw(st.sampled_from(oracle.SETTINGS))
    transpose = draw(st.booleans())
    along = setting.group_size * draw(st.integers(1, 3))
    if setting.bits * along % 32:
        along *= 2
    other = draw(st.integers(1, 20))
    N, K = (other, along) if transpose else (along, other)
    dtype = draw(st.sampled_from(oracle.FLOATS))
    scale_dtype = draw(st.sampled_from(oracle.FLOATS))
    w_leading = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    x_leading = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = oracle.random_weights(rng, setting, w_leading, N, K, dtype=scale_dtype, transpose=transpose)
    x = rng.standard_normal((*x_leading, draw(st.integers(0, 5)), K)).astype(dtype)
    index_shape = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3))
    index_type = draw(st.sampled_from(["int8", "uint8", "int32", "uint32", "int64", "uint64"]))
    lhs = rng.integers(0, np.prod(x_leading, dtype=int), index_shape.input_shapes[0]).astype(index_type)
    rhs = rng.integers(0, np.prod(w_leading, dtype=int), index_shape.input_shapes[1]).astype(index_type)
    weights.w = draw(layouts(weights.w))
    weights.scales = draw(layouts(weights.scales))
    return draw(layouts(x)), weights, draw(layouts(lhs)), draw(layouts(rhs))


@relaxed
@given(valid_calls(), st.sampled_from(["default", "fast", "float32"]), st.sampled_from([0, 1, 2]))
def test_valid_calls_keep_the_bound(call, precision, threads):
    x, weights, lhs, rhs = call
    y = gqmm.gather_qmm(
        x,
        *weights.arrays(),
        lhs_indices=lhs,
        rhs_indices=rhs,
        **weights.arguments(),
        precision=precision,
        stream=gqmm.Stream(threads=threads),
    )
    oracle.assert_within(y, oracle.reference(x, weights, lhs, rhs, precision))


@relaxed
@given(valid_calls())
def test_a_row_alone_has_the_bits_of_the_row_in_its_batch(call):
    x, weights, lhs, rhs = call
    y = gqmm.gather_qmm(x, *weights.arrays(), lhs_indices=lhs, rhs_indices=rhs, **weights.arguments())
    rows = oracle.matrices(x)
    lhs, rhs = (np.ravel(a) for a in np.broadcast_arrays(lhs, rhs))
    for pair, result in enumerate(oracle.matrices(y)):
        for m in range(x.shape[-2]):
            alone = gqmm.gather_qmm(
                rows[lhs[pair], m : m + 1][None],
                *weights.arrays(),
                rhs_indices=rhs[pair : pair + 1].astype(np.int64),
                **weights.arguments(),
            )
            assert oracle.same_bits(alone[0], result[m : m + 1].copy())


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=66)
any_dtype = st.sampled_from(
    [*oracle.FLOATS, *map(np.dtype, ("float64", "uint8", "uint32", "int32", "int64", "bool", "complex64", ">f4", "S3"))]
)


@st.composite
def any_array(draw, shape=shapes):
    """An array of any type and shape, cheap even where it is large."""
    zeros = np.zeros((), draw(any_dtype))
    return np.broadcast_to(zeros, draw(shape))


plausible_shapes = st.builds(
    lambda leading, rows, columns: (*leading, rows, columns),
    st.lists(st.integers(0, 3), max_size=2),
    st.integers(0, 5),
    st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 128]),
)
plausible_array = any_array(plausible_shapes)
anything = st.one_of(any_array(), plausible_array, st.none(), st.integers(), st.text(max_size=3), st.floats(), st.just([1.0]))
some_mode = st.one_of(st.sampled_from([*oracle.MODES, "int4"]), st.none(), st.integers())
some_int = st.one_of(st.none(), st.sampled_from([1, 2, 3, 4, 5, 6, 8, 16, 32, 64, 128]), st.integers(), st.floats())
some_bool = st.one_of(st.booleans(), st.none(), st.integers())
stream = st.one_of(st.none(), st.builds(gqmm.Stream, st.integers(0, 3)), st.text(max_size=3))


def survives(op, *args, **kwargs):
    """Success, or an error that names the operator."""
    try:
        op(*args, **kwargs)
    except (ValueError, TypeError) as error:
        if not str(error).startswith(f"[{op.__name__}] "):
            raise


@relaxed
@given(
    st.one_of(plausible_array, anything),
    st.one_of(plausible_array, anything),
    st.fixed_dictionaries(
        {},
        optional={
            "scales": anything,
            "biases": anything,
            "lhs_indices": anything,
            "rhs_indices": anything,
            "transpose": some_bool,
            "group_size": some_int,
            "bits": some_int,
            "mode": some_mode,
            "global_scale": anything,
            "sorted_indices": some_bool,
            "precision": st.one_of(st.sampled_from(["default", "fast", "float32", "half"]), st.none()),
            "stream": stream,
        },
    ),
)
def test_gather_qmm_survives_any_arguments(x, w, kwargs):
    survives(gqmm.gather_qmm, x, w, **kwargs)


@relaxed
@given(
    valid_calls(),
    st.dictionaries(
        st.sampled_from(["x", "w", "scales", "biases", "lhs_indices", "rhs_indices", "transpose", "group_size", "bits", "mode"]),
        st.one_of(anything, some_int, some_mode, some_bool),
        min_size=1,
        max_size=2,
    ),
)
def test_one_wrong_argument_among_right_ones_is_survived(call, wrong):
    x, weights, lhs, rhs = call
    arguments = dict(zip(("w", "scales", "biases"), weights.arrays(), strict=False))
    arguments |= {"x": x, "lhs_indices": lhs, "rhs_indices": rhs} | weights.arguments() | wrong
    survives(gqmm.gather_qmm, arguments.pop("x"), arguments.pop("w"), **arguments)


@relaxed
@given(
    anything, st.fixed_dictionaries({}, optional={"group_size": some_int, "bits": some_int, "mode": some_mode, "stream": stream})
)
def test_quantize_survives_any_arguments(w, kwargs):
    survives(gqmm.quantize, w, **kwargs)


@relaxed
@given(
    st.one_of(plausible_array, anything),
    st.one_of(plausible_array, anything),
    st.fixed_dictionaries({}, optional={"biases": anything, "group_size": some_int, "bits": some_int, "mode": some_mode}),
    st.sampled_from([None, "float32", "bfloat16", "int8", np.float16, 3]),
)
def test_dequantize_survives_any_arguments(w, scales, kwargs, dtype):
    survives(gqmm.dequantize, w, scales, **kwargs, dtype=dtype)


@relaxed
@given(
    st.one_of(plausible_array, anything),
    st.one_of(plausible_array, anything),
    st.fixed_dictionaries(
        {}, optional={"biases": anything, "group_size": some_int, "bits": some_int, "mode": some_mode, "transpose": some_bool}
    ),
)
def test_pack_survives_any_arguments(w, scales, kwargs):
    survives(gqmm.pack, w, scales, **kwargs)


@relaxed
@given(st.one_of(plausible_array, anything), anything)
def test_unpack_survives_any_arguments(w, like):
    survives(gqmm.unpack, w, like=like)


@relaxed
@given(
    st.one_of(plausible_array, anything),
    st.one_of(plausible_array, anything),
    st.fixed_dictionaries(
        {}, optional={"lhs_indices": anything, "rhs_indices": anything, "sorted_indices": some_bool, "stream": stream}
    ),
)
def test_gather_mm_survives_any_arguments(a, b, kwargs):
    survives(gqmm.gather_mm, a, b, **kwargs)


@relaxed
@given(
    st.sampled_from(oracle.SETTINGS), st.sampled_from(oracle.FLOATS), st.integers(0, 2**32), st.integers(1, 3), st.integers(0, 3)
)
def test_quantized_weights_come_back_within_a_step(setting, dtype, seed, groups, rows):
    """Affine codes are nearest: at most half a step off, plus the rounding of the types involved."""
    rng = np.random.default_rng(seed)
    K = setting.group_size * groups
    w = (rng.standard_normal((rows, K)) * np.exp2(rng.integers(-4, 5))).astype(dtype)
    quantized = gqmm.quantize(w, **setting.arguments())
    back = gqmm.dequantize(*quantized, **setting.arguments(), dtype="float32")
    assert back.shape == w.shape
    if setting.mode == "affine":
        steps = np.repeat(np.abs(quantized[1].astype(np.float64)), setting.group_size, -1)
        largest = np.repeat(
            np.abs(w.astype(np.float64)).reshape(rows, groups, setting.group_size).max(-1), setting.group_size, -1
        )
        # MLX moves the edge of the range to a multiple of the step; scale and bias are rounded to the type.
        slack = (1 << setting.bits) * oracle.UNIT_ROUNDOFF[dtype] * steps + 4 * oracle.UNIT_ROUNDOFF[dtype] * largest
        assert (np.abs(back - w.astype(np.float64)) <= steps + slack).all()
