"""Every error of the contract: its type, and a message with the operator, the values and the remedy."""

from __future__ import annotations

import types
from typing import Any

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting

E, M, N, K = 3, 2, 5, 128


def good_call() -> types.SimpleNamespace:
    """Arguments of a product that works: 4-bit affine weights, groups of 64."""
    rng = np.random.default_rng(1)
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (E,), N, K)
    return types.SimpleNamespace(
        x=rng.standard_normal((4, M, K)).astype(np.float32), w=weights.w, scales=weights.scales, biases=weights.biases, kwargs={}
    )


def call_gather_qmm(call: types.SimpleNamespace) -> Any:
    kwargs = {"rhs_indices": np.array([0, 2, 1, 0])} | call.kwargs
    return gqmm.gather_qmm(call.x, call.w, call.scales, call.biases, **kwargs)


def call_quantized_matmul(call: types.SimpleNamespace) -> Any:
    x = call.x[:1] if isinstance(call.x, np.ndarray) else call.x
    return gqmm.quantized_matmul(x, call.w, call.scales, call.biases, **call.kwargs)


def change(**changes: Any):
    """Replaces arguments: arrays by name, everything else as a keyword; a function changes the good value."""

    def apply(call: types.SimpleNamespace) -> None:
        for name, value in changes.items():
            if name in ("x", "w", "scales", "biases"):
                setattr(call, name, value(getattr(call, name)) if callable(value) else value)
            else:
                call.kwargs[name] = value

    return apply


# Errors that gather_qmm and quantized_matmul share.
SHARED = {
    "wrong K": (change(x=lambda x: x[..., :64]), r"x has K = 64 but w of shape \(3, 5, 16\).* has K = 128"),
    "K that is no multiple of the group": (
        change(x=lambda x: x[..., :96]),
        r"K = 96 is not a multiple of group_size = 64; pad x and w to K = 128 or .*group_size = 32",
    ),
    "K = 0": (
        change(x=lambda x: x[..., :0], w=lambda w: w[..., :0], scales=lambda s: s[..., :0], biases=lambda b: b[..., :0]),
        r"K = 0",
    ),
    "w that is not uint32": (change(w=lambda w: w.view(np.int32)), r"w has type int32; .*uint32"),
    "missing scales": (change(scales=None), r"scales is missing; "),
    "missing biases": (change(biases=None), r'biases is missing; mode "affine" needs it'),
    "superfluous biases": (
        change(mode="mxfp4", scales=lambda s: np.zeros((E, N, 4), np.uint8)),
        r'biases is given but mode "mxfp4" has none; leave it out',
    ),
    "scales of a wrong shape": (change(scales=lambda s: s[..., :1]), r"scales has shape \(3, 5, 1\) but w .* needs \(3, 5, 2\)"),
    "scales of other leading dimensions": (change(scales=lambda s: s[:2]), r"scales has shape \(2, 5, 2\).* needs \(3, 5, 2\)"),
    "biases of a wrong shape": (change(biases=lambda b: b[:, :4]), r"biases has shape \(3, 4, 2\).* needs \(3, 5, 2\)"),
    "scales of a wrong type": (change(scales=lambda s: s.astype(np.float64)), r"scales has type float64; .*float32"),
    "byte scales in affine mode": (change(scales=lambda s: s.astype(np.uint8)), r'scales has type uint8; mode "affine" takes'),
    "float scales in another mode": (change(mode="mxfp4", biases=None), r'scales has type float32; mode "mxfp4" takes uint8'),
    "bits out of the table": (change(bits=7), r"bits = 7"),
    "bits that contradict the shapes": (change(bits=8), r"x has K = 128 but w .*bits = 8.* has K = 64"),
    "bits that the mode lacks": (change(mode="mxfp8", bits=4, biases=None), r"bits = 4"),
    "group_size out of the table": (change(group_size=48), r"group_size = 48"),
    "group_size that contradicts the shapes": (change(group_size=32), r"scales has shape \(3, 5, 2\).* needs \(3, 5, 4\)"),
    "unknown mode": (change(mode="int4"), r"mode.*int4.*affine"),
    "x of integers": (change(x=lambda x: x.astype(np.int32)), r"x has type int32; convert it to float32, float16 or bfloat16"),
    "x of float64": (change(x=lambda x: x.astype(np.float64)), r"x has type float64; convert it to float32"),
    "x of complex numbers": (change(x=lambda x: x.astype(np.complex64)), r"x: element type complex64 is not supported"),
    "x in another byte order": (change(x=lambda x: x.astype(">f4")), r"x: its bytes are in the order of another machine"),
    "unknown precision": (change(precision="int8"), r"precision.*int8.*fast"),
    "a stream by name": (change(stream="gpu"), r"unsupported stream 'gpu'; pass None or gqmm.Stream"),
    "a stream that is a number": (change(stream=0), r"unsupported stream 0; "),
    "w of one dimension": (change(w=lambda w: w[0, 0]), r"w has shape \(16,\)"),
    "bits beyond an int": (change(bits=1 << 40), r"bits = 1099511627776 is out of range; no setting has more than 32 bits"),
}

GATHER_ONLY = {
    "x of one dimension": (change(x=lambda x: x[0, 0]), r"x has shape \(128,\); it needs at least two dimensions.*reshape"),
    "an index out of range": (
        change(rhs_indices=np.array([0, 1, 3, 0])),
        r"rhs_indices\[2\] = 3 is out of range: w has 3 matrices",
    ),
    "a negative index": (change(rhs_indices=np.array([[0], [-1]])), r"rhs_indices\[1, 0\] = -1 is out of range"),
    "an lhs index out of range": (
        change(lhs_indices=np.array([0, 4]), rhs_indices=np.array([0, 1])),
        r"lhs_indices\[1\] = 4 is out of range: x has 4 matrices",
    ),
    "an index beyond int64": (
        change(rhs_indices=np.array([2**64 - 1, 0, 0, 0], np.uint64)),
        r"rhs_indices\[0\] = 18446744073709551615 is out of range",
    ),
    "indices of float type": (
        change(rhs_indices=np.zeros(4, np.float32)),
        r"rhs_indices has type float32; convert it to an integer",
    ),
    "indices of bool type": (change(lhs_indices=np.zeros(4, bool)), r"lhs_indices has type bool; convert it to an integer"),
    "indices that do not broadcast": (
        change(lhs_indices=np.zeros(3, int), rhs_indices=np.zeros(2, int)),
        r"lhs_indices.*\(3,\).*rhs_indices.*\(2,\) do not broadcast",
    ),
    "indices that do not broadcast with the implied ones": (
        change(rhs_indices=np.zeros(3, int)),
        r"\(4,\).*rhs_indices.*\(3,\) do not broadcast",
    ),
    "unsorted indices": (
        change(rhs_indices=np.array([0, 2, 1, 0]), sorted_indices=True),
        r"sorted_indices is set but rhs_indices\[2\] = 1 follows 2; sort",
    ),
    "a global scale in another mode": (
        change(global_scale=np.ones(E, np.float32)),
        r'global_scale is given but mode "affine" has none; only "nvfp4"',
    ),
}

WRONG_KIND = {
    "x": [1, 2.5, [1.0], None, "x"],
    "w": [1, [[1]], None],
    "scales": [1.0, [1.0]],
    "biases": [1.0, (1.0,)],
    "transpose": [1, "yes"],
    "group_size": [64.0, "64", True],
    "bits": [4.0, "4"],
    "mode": [4, b"affine"],
    "precision": [16, None],
}
WRONG_KIND_GATHER = {
    "lhs_indices": [0, [0, 1], (0,)],
    "rhs_indices": [0, [0, 1]],
    "global_scale": [1.0],
    "sorted_indices": [1, None, "yes"],
}


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("op", [call_gather_qmm, call_quantized_matmul], ids=["gather_qmm", "quantized_matmul"])
def test_contradictory_values_are_value_errors(op, case):
    apply, message = SHARED[case]
    call = good_call()
    apply(call)
    with pytest.raises(ValueError, match=rf"^\[{op.__name__.removeprefix('call_')}\] .*{message}"):
        op(call)


@pytest.mark.parametrize("case", GATHER_ONLY)
def test_contradictory_indices_are_value_errors(case):
    apply, message = GATHER_ONLY[case]
    call = good_call()
    apply(call)
    with pytest.raises(ValueError, match=rf"^\[gather_qmm\] .*{message}"):
        call_gather_qmm(call)


def wrong_kinds(table):
    return [pytest.param(name, value, id=f"{name}-{value!r}") for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), wrong_kinds(WRONG_KIND))
@pytest.mark.parametrize("op", [call_gather_qmm, call_quantized_matmul], ids=["gather_qmm", "quantized_matmul"])
def test_a_wrong_kind_of_object_is_a_type_error(op, name, value):
    call = good_call()
    change(**{name: value})(call)
    with pytest.raises(TypeError, match=rf"^\[{op.__name__.removeprefix('call_')}\] {name}: expected .*, got "):
        op(call)


@pytest.mark.parametrize(("name", "value"), wrong_kinds(WRONG_KIND_GATHER))
def test_a_wrong_kind_of_index_is_a_type_error(name, value):
    call = good_call()
    change(**{name: value})(call)
    with pytest.raises(TypeError, match=rf"^\[gather_qmm\] {name}: expected .*, got "):
        call_gather_qmm(call)


def test_the_unchanged_call_works():
    assert call_gather_qmm(good_call()).shape == (4, M, N)
    assert call_quantized_matmul(good_call()).shape == (E, M, N)


def test_quantized_matmul_has_no_gather_options():
    call = good_call()
    for name in ("lhs_indices", "rhs_indices", "sorted_indices", "global_scale"):
        with pytest.raises(TypeError, match=name):
            gqmm.quantized_matmul(call.x, call.w, call.scales, call.biases, **{name: None})


def test_arrays_are_positional_only():
    call = good_call()
    with pytest.raises(TypeError, match="positional"):
        gqmm.gather_qmm(x=call.x, w=call.w)
    with pytest.raises(TypeError, match="positional"):
        gqmm.gather_mm(a=call.x, b=call.x)
    with pytest.raises(TypeError, match="positional"):
        gqmm.quantize(w=call.x)


@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        ((64,), {}, r"w has shape \(64,\); it needs at least two dimensions"),
        ((2, 100), {}, r"K = 100 is not a multiple of group_size = 64"),
        ((2, 0), {}, r"K = 0"),
        ((2, 64), {"bits": 9}, r"bits = 9"),
        ((2, 64), {"group_size": 16}, r"group_size = 16"),
        ((2, 64), {"mode": "mxfp4", "group_size": 64}, r"group_size = 64"),
        ((2, 64), {"mode": "fp8"}, r"mode.*fp8"),
        ((2, 64), {"global_scale": np.ones(1, np.float32)}, r"global_scale is given but mode"),
        ((2, 64), {"mode": "nvfp4", "global_scale": np.ones(2, np.float32)}, r"global_scale has shape \(2,\); pass one value"),
        (
            (2, 64),
            {"mode": "nvfp4", "global_scale": np.ones(1, np.float64)},
            r"global_scale has type float64; convert it to float32",
        ),
        ((2, 64), {"stream": "cpu"}, r"unsupported stream 'cpu'"),
    ],
)
def test_quantize_names_what_is_wrong(shape, kwargs, message):
    with pytest.raises(ValueError, match=rf"^\[quantize\] .*{message}"):
        gqmm.quantize(np.zeros(shape, np.float32), **kwargs)


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.uint32])
def test_quantize_takes_the_compute_types_only(dtype):
    with pytest.raises(
        ValueError, match=rf"^\[quantize\] w has type {np.dtype(dtype)}; convert it to float32, float16 or bfloat16"
    ):
        gqmm.quantize(np.zeros((2, 64), dtype))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"w": np.zeros((2, 8), np.int32)}, ValueError, r"w has type int32; .*uint32"),
        ({"biases": None}, ValueError, r"biases is missing"),
        ({"scales": np.ones((2, 2), np.float32)}, ValueError, r"scales has shape \(2, 2\)"),
        ({"dtype": np.float64}, ValueError, r"dtype = float64 is not available; use float32, float16 or bfloat16"),
        ({"dtype": "half"}, ValueError, r"dtype = 'half' is not an element type"),
        ({"dtype": 3}, TypeError, r"dtype: expected an element type"),
        ({"scales": 1.0}, TypeError, r"scales: expected an array"),
        ({"scales": None}, ValueError, r"scales is missing; pass the second array that quantize returns"),
        ({"mode": "mxfp4"}, ValueError, r"scales has type float32"),
        ({"stream": object}, ValueError, r"unsupported stream"),
    ],
)
def test_dequantize_names_what_is_wrong(changes, error, message):
    good = {
        "w": np.zeros((2, 8), np.uint32),
        "scales": np.ones((2, 1), np.float32),
        "biases": np.ones((2, 1), np.float32),
    } | changes
    with pytest.raises(error, match=rf"^\[dequantize\] .*{message}"):
        gqmm.dequantize(good.pop("w"), **good)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"w": np.zeros((2, 8), np.int32)}, ValueError, r"w has type int32; .*uint32"),
        ({"biases": None}, ValueError, r"biases is missing"),
        ({"scales": np.ones((2, 2), np.float32)}, ValueError, r"scales has shape \(2, 2\)"),
        ({"bits": 7}, ValueError, r"bits = 7"),
        ({"mode": "none"}, ValueError, r"mode.*none"),
        ({"transpose": "no"}, TypeError, r"transpose: expected True or False, got 'no'"),
        ({"stream": 2}, ValueError, r"unsupported stream 2"),
        ({"w": [1]}, TypeError, r"w: expected an array .* got list"),
    ],
)
def test_pack_names_what_is_wrong(changes, error, message):
    good = {"w": np.zeros((2, 8), np.uint32), "scales": np.ones((2, 1), np.float32), "biases": np.ones((2, 1), np.float32)}
    with pytest.raises(error, match=rf"^\[pack\] .*{message}"):
        gqmm.pack(**(good | changes))


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (np.ones((2, 3), np.float32), np.ones((4, 2), np.float32), ValueError, r"a of shape \(2, 3\) has K = 3 but b .* K = 4"),
        (np.ones((), np.float32), np.ones((4, 2), np.float32), ValueError, r"a is a scalar"),
        (np.ones((2, 3), np.float64), np.ones((3, 2), np.float32), ValueError, r"a has type float64"),
        (np.ones((2, 3), np.float32), np.ones((3, 2), np.int32), ValueError, r"b has type int32"),
        ([1.0], np.ones((3, 2), np.float32), TypeError, r"a: expected an array .* got list"),
    ],
)
def test_gather_mm_names_what_is_wrong(a, b, error, message):
    with pytest.raises(error, match=rf"^\[gather_mm\] .*{message}"):
        gqmm.gather_mm(a, b)


def test_streams_and_devices_check_their_arguments():
    assert gqmm.Stream() == gqmm.Stream(threads=0, device=gqmm.Device("cpu", 0))
    assert gqmm.Stream(threads=2) != gqmm.Stream(threads=3)
    assert gqmm.Stream(node=0) != gqmm.Stream(node=1) != gqmm.Stream()
    assert {gqmm.Stream(2), gqmm.Stream(2)} == {gqmm.Stream(2)}
    assert gqmm.Device() == gqmm.Device("cpu")
    for other in (2, None, "cpu"):
        assert gqmm.Stream(2) != other
        assert gqmm.Device() != other
    with pytest.raises(ValueError, match=r"\[Stream\] threads = -1 is negative"):
        gqmm.Stream(threads=-1)
    with pytest.raises(ValueError, match=r"\[Stream\] threads = 4097 exceeds 4096; give 0"):
        gqmm.Stream(threads=4097)
    with pytest.raises(ValueError, match=r"\[Device\] unsupported device cuda:0"):
        gqmm.Device("cuda")
    with pytest.raises(TypeError):
        gqmm.Stream(threads="2")
