"""QuantizedWeights: the arrays and settings of quantized weights as one argument, with the bits that the arrays give."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting

AFFINE = Setting("affine", 6, 32)
NVFP4 = Setting("nvfp4", 4, 16)
ATTRIBUTES = ("w", "scales", "biases", "global_scale", "mode", "bits", "group_size", "transpose", "shape", "nbytes")


def whole(weights: oracle.Weights) -> gqmm.QuantizedWeights:
    return gqmm.QuantizedWeights(*weights.arrays(), **weights.arguments())


@pytest.fixture
def weights(rng) -> oracle.Weights:
    return oracle.random_weights(rng, AFFINE, (2,), 64, 5, transpose=False)


@pytest.mark.parametrize("transpose", [True, False], ids=["transposed", "plain"])
@pytest.mark.parametrize("setting", oracle.SETTINGS, ids=str)
def test_every_operator_gives_the_bits_of_the_arrays(rng, setting, transpose):
    N, K = (19, 256) if transpose else (256, 19)
    arrays = oracle.random_weights(rng, setting, (3,), N, K, transpose=transpose)
    weights = whole(arrays)
    x = rng.standard_normal((3, 2, K)).astype(np.float32)
    rhs = np.array([2, 0, 1])
    settings = arrays.arguments()
    expected = gqmm.gather_qmm(x, *arrays.arrays(), rhs_indices=rhs, **settings)
    assert oracle.same_bits(gqmm.gather_qmm(x, weights, rhs_indices=rhs), expected)
    packed = gqmm.pack(weights)
    assert (packed.mode, packed.bits, packed.group_size, packed.transpose) == (*vars_of(setting), transpose)
    assert oracle.same_bits(gqmm.gather_qmm(x, packed, rhs_indices=rhs), expected)
    assert oracle.same_bits(gqmm.quantized_matmul(x, weights), gqmm.quantized_matmul(x, *arrays.arrays(), **settings))
    dequantized = gqmm.dequantize(weights)
    assert dequantized.shape == weights.shape == ((3, N, K) if transpose else (3, K, N))
    assert oracle.same_bits(dequantized, gqmm.dequantize(*arrays.arrays(), **setting.arguments()))
    assert gqmm.dequantize(weights, dtype="float16").dtype == np.float16


def vars_of(setting: Setting) -> tuple[str, int, int]:
    return setting.mode, setting.bits, setting.group_size


@pytest.mark.parametrize("scale", [np.float32([0.5, 3]), np.float32(2)], ids=["each", "one"])
def test_the_global_scale_is_part_of_the_weights(rng, scale):
    arrays = oracle.random_weights(rng, NVFP4, (2,), 3, 64)
    weights = gqmm.QuantizedWeights(*arrays.arrays(), mode="nvfp4", global_scale=scale)
    x = rng.standard_normal((2, 1, 64)).astype(np.float32)
    expected = gqmm.gather_qmm(x, *arrays.arrays(), mode="nvfp4", global_scale=scale)
    assert oracle.same_bits(gqmm.gather_qmm(x, weights), expected)
    assert oracle.same_bits(gqmm.gather_qmm(x, gqmm.pack(weights)), expected)
    assert oracle.same_bits(gqmm.quantized_matmul(x, weights), expected)
    assert oracle.same_bits(gqmm.dequantize(weights), gqmm.dequantize(*arrays.arrays(), mode="nvfp4", global_scale=scale))


def test_it_holds_the_arrays_themselves_and_fills_in_the_settings(rng):
    arrays = oracle.random_weights(rng, Setting("affine", 4, 64), (2, 3), 5, 64)
    weights = gqmm.QuantizedWeights(*arrays.arrays())
    assert weights.w is arrays.w
    assert weights.scales is arrays.scales
    assert weights.biases is arrays.biases
    assert weights.global_scale is None
    assert (weights.mode, weights.bits, weights.group_size, weights.transpose) == ("affine", 4, 64, True)
    assert weights.shape == (2, 3, 5, 64)
    assert weights.nbytes == sum(a.nbytes for a in arrays.arrays())
    assert repr(weights) == f"<gqmm.QuantizedWeights (2, 3, 5, 64) affine 4-bit, groups of 64, {weights.nbytes} bytes>"
    scale = np.float32([1])
    nvfp4 = oracle.random_weights(rng, NVFP4, (1,), 5, 64)
    assert gqmm.QuantizedWeights(*nvfp4.arrays(), mode="nvfp4", global_scale=scale).global_scale is scale


def test_arrays_are_read_at_each_call(weights):
    whole_weights = whole(weights)
    assert np.isfinite(gqmm.dequantize(whole_weights)).all()
    weights.scales[:] = np.nan
    assert np.isnan(gqmm.dequantize(whole_weights)).all()


def test_arrays_whose_memory_moved_are_read_where_it_is_now(rng):
    arrays = oracle.random_weights(rng, Setting("affine", 4, 64), (), 4, 64)
    w = arrays.w.copy()
    weights = gqmm.QuantizedWeights(w, arrays.scales, arrays.biases)
    w.resize((1 << 20, 8), refcheck=False)  # most likely elsewhere
    with pytest.raises(ValueError, match=r"\[dequantize\] scales has shape \(4, 1\) but w of shape \(1048576, 8\)"):
        gqmm.dequantize(weights)


@pytest.mark.parametrize("name", [*ATTRIBUTES, "another"])
def test_no_attribute_can_be_set_or_deleted(weights, name):
    whole_weights = whole(weights)
    with pytest.raises((AttributeError, TypeError)):
        setattr(whole_weights, name, None)
    with pytest.raises((AttributeError, TypeError)):
        delattr(whole_weights, name)


def test_it_is_initialised_once(weights):
    whole_weights = whole(weights)
    with pytest.warns(RuntimeWarning, match="already-initialized"), pytest.raises(TypeError):
        whole_weights.__init__(*weights.arrays(), **weights.arguments())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"w": np.zeros((2, 8), np.int32)}, ValueError, r"w has type int32; quantized weights are uint32 words"),
        ({"scales": None}, ValueError, r"scales is missing; pass the second array that quantize returns"),
        ({"scales": np.ones((2, 2), np.float32)}, ValueError, r"scales has shape \(2, 2\).*group_size = 32 would fit"),
        ({"biases": None}, ValueError, r'biases is missing; mode "affine" needs it'),
        ({"bits": 7}, ValueError, r'bits = 7 is not available in mode "affine"; use one of 1, 2, 3, 4, 5, 6, 8'),
        ({"group_size": 16}, ValueError, r'group_size = 16 is not available in mode "affine"; use one of 32, 64, 128'),
        ({"mode": "none"}, ValueError, r'unknown mode "none"; use one of'),
        ({"mode": "mxfp4"}, ValueError, r"scales has type float32"),
        ({"global_scale": np.float32(1)}, ValueError, r'global_scale is given but mode "affine" has none'),
        ({"w": [1]}, TypeError, r"w: expected an array .* got list"),
        ({"scales": 1.0}, TypeError, r"scales: expected an array .* got float"),
        ({"bits": "4"}, TypeError, r"bits: expected an integer or None, got '4'"),
        ({"transpose": "no"}, TypeError, r"transpose: expected True or False, got 'no'"),
        ({"mode": 4}, TypeError, r"mode: expected a string, got 4"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_it_is_checked_when_it_is_made(changes, error, message):
    good = {"w": np.zeros((2, 8), np.uint32), "scales": np.ones((2, 1), np.float32), "biases": np.ones((2, 1), np.float32)}
    with pytest.raises(error, match=rf"^\[QuantizedWeights\] .*{message}"):
        gqmm.QuantizedWeights(**(good | changes))


def test_settings_are_given_by_name(weights):
    with pytest.raises(TypeError):
        gqmm.QuantizedWeights(*weights.arrays(), None)
    with pytest.raises(TypeError):
        gqmm.QuantizedWeights()


@pytest.mark.parametrize(
    "repeated",
    [
        {"group_size": None, "bits": None, "mode": None},
        {"group_size": 32, "bits": 6, "mode": "affine"},
        {"transpose": False},
    ],
    ids=str,
)
def test_settings_that_agree_may_be_repeated(rng, weights, repeated):
    x = rng.standard_normal((2, 1, 5)).astype(np.float32)
    assert gqmm.gather_qmm(x, whole(weights), **repeated).shape == (2, 1, 64)
    assert gqmm.quantized_matmul(x, whole(weights), **repeated).shape == (2, 1, 64)
    assert gqmm.pack(whole(weights), **repeated).shape == (2, 5, 64)
    if "transpose" not in repeated:
        assert gqmm.dequantize(whole(weights), **repeated).shape == (2, 5, 64)


CONTRADICTIONS = {
    "transpose": (True, r"transpose = true but w is QuantizedWeights with transpose = false; leave it out or make other weights"),
    "mode": ("mxfp4", r"mode = mxfp4 but w is QuantizedWeights with mode = affine; leave it out or make other weights"),
    "group_size": (64, r"group_size = 64 but w is QuantizedWeights with group_size = 32; leave it out or make other weights"),
    "bits": (4, r"bits = 4 but w is QuantizedWeights with bits = 6; leave it out or make other weights"),
    "scales": (np.ones(1, np.float32), r"scales is given but w = <gqmm.QuantizedWeights .*> holds its own; leave it out"),
    "biases": (np.ones(1, np.float32), r"biases is given but w = <gqmm.QuantizedWeights .*> holds its own; leave it out"),
    "global_scale": (np.float32(1), r"global_scale is given but w = <.*> holds none; leave it out or make the weights with it"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_the_weights_is_an_error(rng, weights, name):
    """Even where it equals the default of the signature."""
    value, message = CONTRADICTIONS[name]
    x = rng.standard_normal((2, 1, 5)).astype(np.float32)
    calls = {
        "gather_qmm": lambda **beside: gqmm.gather_qmm(x, whole(weights), **beside),
        "quantized_matmul": lambda **beside: gqmm.quantized_matmul(x, whole(weights), **beside),
        "dequantize": lambda **beside: gqmm.dequantize(whole(weights), **beside),
        "pack": lambda **beside: gqmm.pack(whole(weights), **beside),
    }
    has_no_such_argument = {("quantized_matmul", "global_scale"), ("pack", "global_scale"), ("dequantize", "transpose")}
    for op, call in calls.items():
        if (op, name) not in has_no_such_argument:
            with pytest.raises(ValueError, match=rf"^\[{op}\] {message}$"):
                call(**{name: value})


def test_a_global_scale_beside_weights_that_hold_one_is_an_error(rng):
    arrays = oracle.random_weights(rng, NVFP4, (2,), 3, 64)
    weights = gqmm.QuantizedWeights(*arrays.arrays(), mode="nvfp4", global_scale=np.float32(1))
    with pytest.raises(ValueError, match=r"\[dequantize\] global_scale is given but w = <.*> holds its own; leave it out"):
        gqmm.dequantize(weights, global_scale=np.float32(1))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("setting", [AFFINE, NVFP4], ids=str)
def test_pickles_hold_the_arrays_and_the_settings(rng, setting, protocol):
    weights = whole(oracle.random_weights(rng, setting, (2,), 64, 5, transpose=False, with_global_scale=setting is NVFP4))
    assert_equal(pickle.loads(pickle.dumps(weights, protocol)), weights)


def assert_equal(a: gqmm.QuantizedWeights, b: gqmm.QuantizedWeights) -> None:
    for name in ATTRIBUTES:
        x, y = getattr(a, name), getattr(b, name)
        assert oracle.same_bits(x, y) if isinstance(y, np.ndarray) else x == y, name


def test_a_copy_is_the_object_and_a_deep_copy_has_arrays_of_its_own(weights):
    original = whole(weights)
    assert copy.copy(original) is original
    deep = copy.deepcopy(original)
    assert deep is not original
    assert_equal(deep, original)
    assert not np.shares_memory(deep.w, original.w)
    twice = copy.deepcopy([original, original, original.w])
    assert twice[0] is twice[1]
    assert twice[0].w is twice[2]


def test_references_in_a_circle_are_collected(rng):
    class Array(np.ndarray):
        pass

    arrays = oracle.random_weights(rng, Setting("affine", 4, 64), (), 4, 64)
    w = arrays.w.view(Array)
    w.owner = gqmm.QuantizedWeights(w, arrays.scales, arrays.biases)
    watch = weakref.ref(w)
    del w
    gc.collect()
    assert watch() is None


def test_weights_hold_their_arrays_and_no_longer(rng):
    class Array(np.ndarray):
        pass

    arrays = oracle.random_weights(rng, Setting("affine", 4, 64), (), 4, 64)
    w = arrays.w.view(Array)
    watch = weakref.ref(w)
    weights = gqmm.QuantizedWeights(w, arrays.scales, arrays.biases)
    del w
    gc.collect()
    assert watch() is not None
    del weights
    assert watch() is None
