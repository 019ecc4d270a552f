"""Any array on the CPU is read in place, whatever its strides, address and library; the result belongs to the library of x."""

from __future__ import annotations

import array
import ctypes
import subprocess
import sys
import textwrap
from typing import Any

import gqmm
import ml_dtypes
import numpy as np
import oracle
import pytest
from oracle import Setting


@pytest.fixture
def weights(rng):
    return oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 5, 128)


def product(x: Any, w: Any, scales: Any, biases: Any, **kwargs: Any) -> Any:
    return gqmm.gather_qmm(x, w, scales, biases, **kwargs)


class Interface:
    """An object with nothing but an __array_interface__."""

    def __init__(self, **fields: Any) -> None:
        self.__array_interface__ = fields | {"version": 3}


def interface_of(a: np.ndarray) -> Interface:
    return Interface(**a.__array_interface__ | {"strides": a.strides})


def strided_copies(a: np.ndarray) -> dict[str, np.ndarray]:
    """The same elements in memory of other shapes."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    record = np.zeros(a.shape, np.dtype([("pad", "u1"), ("value", a.dtype), ("tail", "u2")]))
    record["value"] = a
    buffer = bytearray(a.nbytes + 1)
    odd = np.frombuffer(buffer, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    odd[...] = a
    read_only = a.copy()
    read_only.flags.writeable = False
    return {
        "every other element": wide[..., ::2],
        "reversed": np.flip(np.ascontiguousarray(np.flip(a))),
        "transposed": np.ascontiguousarray(a.T).T,
        "a field of records": record["value"],
        "at an odd address": odd,
        "read-only": read_only,
        "Fortran order": np.asfortranarray(a),
    }


@pytest.mark.parametrize("name", ["x", "w", "scales", "biases"])
@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
def test_every_memory_layout_gives_the_same_bits(rng, name, dtype):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 5, 128, dtype=dtype)
    operands = dict(zip(("w", "scales", "biases"), weights.arrays(), strict=True))
    operands["x"] = rng.standard_normal((3, 2, 128)).astype(dtype)
    expected = product(**operands)
    for layout, same in strided_copies(operands[name]).items():
        assert np.array_equal(oracle.bits_of(same), oracle.bits_of(operands[name]))
        assert oracle.same_bits(product(**operands | {name: same}), expected), layout


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16], ids=str)
def test_indices_may_be_strided(rng, weights, dtype):
    x = rng.standard_normal((2, 3, 1, 128)).astype(np.float32)
    rhs = rng.integers(0, 3, (2, 3)).astype(dtype)
    expected = product(x, *weights.arrays(), rhs_indices=rhs)
    for layout, same in strided_copies(rhs).items():
        assert oracle.same_bits(product(x, *weights.arrays(), rhs_indices=same), expected), layout
    assert oracle.same_bits(
        product(x, *weights.arrays(), rhs_indices=np.broadcast_to(dtype(2), (2, 3))),
        product(x, *weights.arrays(), rhs_indices=np.full((2, 3), 2)),
    )


def test_a_memory_map_of_a_file_works_in_place(rng, weights, tmp_path):
    """As safetensors files have it: read-only, and at an odd address."""
    x = rng.standard_normal((3, 2, 128)).astype(np.float32)
    path = tmp_path / "weights"
    path.write_bytes(b"!" + b"".join(a.tobytes() for a in weights.arrays()))
    data = np.memmap(path, np.uint8, "r")
    views, offset = [], 1
    for a in weights.arrays():
        views.append(data[offset : offset + a.nbytes].view(a.dtype).reshape(a.shape))
        assert not views[-1].flags.aligned
        assert not views[-1].flags.writeable
        offset += a.nbytes
    y = product(x, *views)
    assert oracle.same_bits(y, product(x, *weights.arrays()))
    assert type(y) is np.ndarray
    assert type(product(np.asarray(x).view(np.memmap), *views)) is np.ndarray


def test_broadcast_operands_with_zero_strides(rng, weights):
    one = [a[:1] for a in weights.arrays()]
    many = [np.broadcast_to(a, (4, *a.shape[1:])) for a in one]
    x = np.broadcast_to(rng.standard_normal((1, 1, 128)).astype(np.float32), (4, 6, 128))
    assert x.strides[:2] == (0, 0)
    expected = np.broadcast_to(product(x[:1, :1], *one), (4, 6, 5))
    assert oracle.same_bits(product(x, *many), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=str)
def test_objects_with_only_an_array_interface(rng, weights, dtype):
    x = rng.standard_normal((3, 4, 128)).astype(dtype)[:, ::2]
    expected = product(x, *weights.arrays())
    y = product(interface_of(x), *map(interface_of, weights.arrays()))
    assert type(y) is np.ndarray
    assert oracle.same_bits(y, expected)
    in_buffer = Interface(shape=(3, 2, 128), typestr=x.dtype.str, data=memoryview(np.ascontiguousarray(x)).cast("B"))
    assert oracle.same_bits(product(in_buffer, *weights.arrays()), expected)


def test_buffers_and_memoryviews(rng, weights):
    x = rng.standard_normal((3, 4, 128)).astype(np.float32)
    y = product(memoryview(x)[::2], *map(memoryview, (a[:2] for a in weights.arrays())))
    assert type(y) is np.ndarray
    assert oracle.same_bits(y, product(x[::2], *(a[:2] for a in weights.arrays())))
    rhs = array.array("q", [2, 0, 1])
    assert oracle.same_bits(
        product(x, *weights.arrays(), rhs_indices=rhs), product(x, *weights.arrays(), rhs_indices=np.array([2, 0, 1]))
    )


def test_objects_with_only_dlpack(rng, weights):
    class Capsule:
        def __init__(self, a: np.ndarray) -> None:
            self.a = a

        def __dlpack__(self, **kwargs: Any) -> Any:
            return self.a.__dlpack__(**kwargs)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.a.__dlpack_device__()

    x = rng.standard_normal((3, 4, 128)).astype(np.float32)[:, ::2]
    before = sys.getrefcount(x)
    y = product(Capsule(x), *map(Capsule, weights.arrays()))
    assert oracle.same_bits(y, product(x, *weights.arrays()))
    assert sys.getrefcount(x) == before


class Exporter:
    """An object with nothing but __dlpack__, which takes the arguments that `ask` takes."""

    def __init__(self, a: np.ndarray, ask: Any) -> None:
        self.a, self.ask = a, ask

    def __dlpack__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.ask(self.a, *arguments, **keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def refuse_new_versions(a: np.ndarray, **keywords: Any) -> Any:
    if keywords:
        raise BufferError("no such version")
    return a.__dlpack__()


def test_read_only_memory_is_read_through_dlpack(rng, weights):
    """Only a capsule of DLPack 1 can be had for it."""
    operands = [read_only(rng.standard_normal((3, 4, 128)).astype(np.float32)), *map(read_only, weights.arrays())]
    with pytest.raises(BufferError):
        operands[0].__dlpack__()
    before = [sys.getrefcount(a) for a in operands]
    y = product(*(Exporter(a, lambda a, **keywords: a.__dlpack__(**keywords)) for a in operands))
    assert oracle.same_bits(y, product(*operands))
    assert [sys.getrefcount(a) for a in operands] == before


@pytest.mark.parametrize(
    "ask",
    [lambda a: a.__dlpack__(), lambda a, stream=None: a.__dlpack__(), refuse_new_versions],
    ids=["no arguments", "a stream", "no versions"],
)
def test_exporters_from_before_dlpack_1_are_asked_again(rng, weights, ask):
    x = rng.standard_normal((3, 4, 128)).astype(np.float32)
    assert oracle.same_bits(product(Exporter(x, ask), *weights.arrays()), product(x, *weights.arrays()))


def test_a_type_error_within_an_exporter_is_shown():
    def fails(a: np.ndarray, max_version: Any = None) -> Any:
        raise TypeError("none of my business")

    with pytest.raises(ValueError, match=r"\[gather_mm\] a: its library does not lend the memory: none of my business"):
        gqmm.gather_mm(Exporter(FLOATS, fails), FLOATS)


@pytest.mark.parametrize("setting", oracle.MICROSCALING, ids=str)
def test_scales_may_have_their_own_type(rng, setting):
    """Their bytes are the scales, through every way to an array's memory; a cast to uint8 would change them."""
    weights = oracle.random_weights(rng, setting, (3,), 64, 128)
    x = rng.standard_normal((3, 4, 128)).astype(np.float32)
    arguments = setting.arguments()
    typed = weights.scales.view(setting.scales)
    for scales in (typed, np.asfortranarray(typed), typed.repeat(2, -1)[..., ::2], read_only(typed)):
        for ours, expected in [
            (gqmm.gather_qmm(x, weights.w, scales, **arguments), gqmm.gather_qmm(x, *weights.arrays(), **arguments)),
            (gqmm.quantized_matmul(x, weights.w, scales, **arguments), gqmm.quantized_matmul(x, *weights.arrays(), **arguments)),
            (gqmm.dequantize(weights.w, scales, **arguments), gqmm.dequantize(*weights.arrays(), **arguments)),
            (gqmm.gather_qmm(x, gqmm.pack(weights.w, scales, **arguments)), gqmm.gather_qmm(x, *weights.arrays(), **arguments)),
        ]:
            assert oracle.same_bits(ours, expected)


FLOAT8 = ("float8_e4m3fn", "float8_e8m0fnu", "float8_e5m2", "float8_e4m3", "float8_e4m3b11fnuz")
UNFIT = [(setting, dtype) for setting in oracle.DEFAULTS for dtype in FLOAT8 if dtype != setting.format.scales]


@pytest.mark.parametrize(("setting", "dtype"), UNFIT, ids=str)
def test_types_of_scales_that_do_not_fit_the_mode_are_refused(rng, setting, dtype):
    weights = oracle.random_weights(rng, setting, (3,), 5, 128)
    scales = np.zeros(weights.scales.shape, getattr(ml_dtypes, dtype))
    remedy = "name the mode" if setting.mode == "affine" else r"pass scales.view\(uint8\), which does not change them"
    with pytest.raises(ValueError, match=rf'^\[pack\] scales: element type {dtype} does not fit mode "{setting.mode}".*{remedy}'):
        gqmm.pack(weights.w, scales, weights.biases, **setting.arguments())


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e8m0fnu"])
def test_types_of_scales_are_refused_elsewhere(weights, dtype):
    a = np.zeros((3, 2, 128), getattr(ml_dtypes, dtype))
    with pytest.raises(
        ValueError, match=rf"^\[gather_qmm\] x: element type {dtype} is taken for scales alone; convert the values"
    ):
        product(a, *weights.arrays())
    with pytest.raises(ValueError, match=rf"^\[gather_qmm\] w: element type {dtype} is taken .* bytes with w.view\(uint32\)"):
        product(np.zeros((3, 2, 128), np.float32), a, weights.scales, weights.biases)


def test_scales_of_another_type_of_8_bits_are_refused_with_a_view_as_the_remedy(rng):
    weights = oracle.random_weights(rng, Setting("mxfp4", 4, 32), (3,), 5, 128)
    with pytest.raises(ValueError, match=r"scales has type int8; .* view them as uint8, for a conversion would change them"):
        gqmm.dequantize(weights.w, weights.scales.view(np.int8), mode="mxfp4")


def test_matrices_and_other_subclasses_are_read_as_arrays(rng):
    w = rng.standard_normal((5, 128)).astype(np.float32)
    x = rng.standard_normal((2, 128)).astype(np.float32)
    y = gqmm.quantized_matmul(np.asmatrix(x), *gqmm.quantize(w.view(np.recarray)))
    assert type(y) is np.ndarray
    assert oracle.same_bits(y, gqmm.quantized_matmul(x, *gqmm.quantize(w)))


def test_bfloat16_is_ml_dtypes_in_numpy(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 5, 128, dtype=oracle.bfloat16)
    x = rng.standard_normal((3, 2, 128)).astype(oracle.bfloat16)
    y = product(x, *weights.arrays())
    assert y.dtype == oracle.bfloat16
    assert y.flags.c_contiguous
    assert y.flags.writeable
    codes, scales, biases = gqmm.quantize(x)
    assert (codes.dtype, scales.dtype, biases.dtype) == (np.uint32, oracle.bfloat16, oracle.bfloat16)
    assert gqmm.dequantize(*gqmm.quantize(x, mode="mxfp4"), mode="mxfp4").dtype == oracle.bfloat16


def test_results_own_their_memory(rng, weights):
    x = rng.standard_normal((3, 2, 128)).astype(np.float32)
    first = product(x, *weights.arrays())
    kept = first.copy()
    second = product(x, *weights.arrays())
    second[:] = 0
    assert np.array_equal(first, kept)
    view = first[1:]
    del first
    assert np.array_equal(view, kept[1:])


def test_operands_are_released(rng, weights):
    x = rng.standard_normal((3, 2, 128)).astype(np.float32)
    operands = (x, *weights.arrays())
    before = [sys.getrefcount(a) for a in operands]
    for _ in range(3):
        product(*operands)
        with pytest.raises(ValueError, match="biases is missing"):
            gqmm.gather_qmm(*operands[:3])
    assert [sys.getrefcount(a) for a in operands] == before


def test_x_may_also_be_the_indices_or_the_scales(rng, weights):
    """One object in several roles."""
    weights.biases = weights.scales
    x = rng.standard_normal((3, 2, 128)).astype(np.float32)
    oracle.assert_within(product(x, *weights.arrays()), oracle.reference(x, weights, np.arange(3), np.arange(3)))


def refused(error: type[Exception], message: str, a: Any) -> Any:
    return pytest.param(error, message, a, id=message[:40])


class OnDevice:
    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 1)

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise AssertionError("a tensor on another device must not be exported")


class BrokenCapsule:
    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return 3


class Unwilling(BrokenCapsule):
    def __dlpack__(self, **kwargs: Any) -> Any:
        raise BufferError("not today")


class OddDevice(BrokenCapsule):
    def __dlpack_device__(self) -> Any:
        return "cpu"


class DLTensor(ctypes.Structure):
    """Of <dlpack/dlpack.h>, the first member of a DLManagedTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


class FarStride(BrokenCapsule):
    """Two floats so far apart that the distance in bytes wraps round to 0."""

    def __init__(self) -> None:
        self.shape, self.strides = (ctypes.c_int64 * 1)(2), (ctypes.c_int64 * 1)(2**62)
        self.tensor = DLTensor(FLOATS.ctypes.data, (1, 0), 1, 2, 32, 1, self.shape, self.strides, 0, None, None)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return capsule_of(self.tensor, b"dltensor")


class VersionedTensor(ctypes.Structure):
    """A DLManagedTensorVersioned."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


def capsule_of(structure: ctypes.Structure, name: bytes) -> Any:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(ctypes.addressof(structure), name, None)


class NextVersion(BrokenCapsule):
    """DLPack 2, of which only the version can be read."""

    def __init__(self) -> None:
        self.tensor = VersionedTensor(2, 5)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return capsule_of(self.tensor, b"dltensor_versioned")


class Consumed(BrokenCapsule):
    """A capsule that somebody has taken the tensor out of."""

    def __init__(self, name: bytes) -> None:
        self.tensor, self.name = VersionedTensor(1, 0), name

    def __dlpack__(self, **kwargs: Any) -> Any:
        return capsule_of(self.tensor, self.name)


FLOATS = np.zeros(6, np.float32)


def six(**fields: Any) -> Interface:
    """An interface to the six floats."""
    return Interface(typestr="<f4", data=FLOATS, **fields)


@pytest.mark.parametrize(
    ("error", "message", "a"),
    [
        refused(TypeError, r"a: expected an array .* got int", 3),
        refused(ValueError, r"a is a scalar; it needs at least one dimension", np.float32(3)),
        refused(TypeError, r"a: expected an array .* got list", [[1.0]]),
        refused(TypeError, r"a: expected an array .* got str", "x"),
        refused(TypeError, r"a: expected an array .* got NoneType", None),
        refused(TypeError, r"a: expected an array .* got type", np.ndarray),
        refused(TypeError, r"a: masked arrays are not supported; pass a.filled", np.ma.masked_array(FLOATS)),
        refused(ValueError, r"a: element type object", np.zeros(3, object)),
        refused(ValueError, r"a: element type <U1", np.array(["a"])),
        refused(ValueError, r"a: element type datetime64", np.zeros(3, "M8[s]")),
        refused(ValueError, r"a: element type \|V2", np.zeros(3, "V2")),
        refused(ValueError, r"a: element type \[\('a', '<f4'\)\]", np.zeros(3, [("a", "f4")])),
        refused(ValueError, r"a: its bytes are in the order of another machine", np.zeros(3, ">f2")),
        refused(ValueError, r"a: its bytes are in the order of another machine", memoryview(np.zeros(3, ">f4"))),
        refused(ValueError, r"a: its memory is on CUDA device 1.*a.cpu\(\)", OnDevice()),
        refused(TypeError, r"a: __dlpack__ returned no \"dltensor\" capsule but 3", BrokenCapsule()),
        refused(ValueError, r"a: its library lends it as DLPack 2.5, and gqmm reads version 1; copy it", NextVersion()),
        refused(TypeError, r"a: __dlpack__ returned no .* object \"used_dltensor\"", Consumed(b"used_dltensor")),
        refused(TypeError, r"a: __dlpack__ returned no .* \"used_dltensor_v", Consumed(b"used_dltensor_versioned")),
        refused(ValueError, r"a: a DLPack stride of 4611686018427387904 elements of 4 bytes exceeds 64 bits", FarStride()),
        refused(ValueError, r"a: its library does not lend the memory: not today", Unwilling()),
        refused(ValueError, r"a: malformed __dlpack_device__: cpu", OddDevice()),
        refused(ValueError, r"a: malformed __array_interface__: shape \(2, 3\) reaches outside", six(shape=(2, 3), strides=(-4, 8))),  # noqa: E501
        refused(ValueError, r"a: malformed __array_interface__: shape \(7,\) reaches outside", six(shape=(7,))),
        refused(ValueError, r"a: malformed __array_interface__: shape \(1,\) reaches outside", six(shape=(1,), offset=21)),
        refused(ValueError, r"a: shape \(2, -3\) has a negative extent; extents are 0 or more", six(shape=(2, -3))),
        refused(ValueError, r"a: shape \(4, 4611686018427387904\) of float32 exceeds 2\^63 bytes; use", six(shape=(4, 2**62))),
        refused(ValueError, r"a: malformed __array_interface__: shape = ", six(shape=(2**70,))),
        refused(ValueError, r"a: malformed __array_interface__: shape = None is not a tuple", six(shape=None)),
        refused(ValueError, r"a: malformed __array_interface__: 2 strides for shape \(1,\)", six(shape=(1,), strides=(4, 4))),
        refused(ValueError, r"a: malformed __array_interface__: typestr = None is not", Interface(shape=(1,), data=FLOATS)),
        refused(ValueError, r"a: element type '\?0'", Interface(shape=(1,), typestr="", data=FLOATS)),
        refused(ValueError, r"a: malformed __array_interface__: data = ", Interface(shape=(1,), typestr="<f4", data=("a", False))),  # noqa: E501
        refused(ValueError, r"a: no memory behind its shape \(1,\); copy", Interface(shape=(1,), typestr="<f4", data=(0, False))),
        refused(ValueError, r"a: masked arrays are not supported; pass a.filled\(value\)", six(shape=(1,), mask=FLOATS)),
    ],
)  # fmt: skip
def test_what_is_no_readable_array_is_refused(error, message, a):
    with pytest.raises(error, match=rf"^\[gather_mm\] {message}"):
        gqmm.gather_mm(a, FLOATS)


def test_interrupts_are_not_swallowed():
    class Interrupting(BrokenCapsule):
        def __dlpack__(self, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gqmm.gather_mm(Interrupting(), FLOATS)


def test_no_library_is_imported_unless_x_is_its():
    program = """
        import sys
        import gqmm
        import numpy as np
        w, s, b = gqmm.quantize(np.ones((2, 64), np.float32))
        gqmm.quantized_matmul(np.ones((1, 64), np.float32), w, s, b)
        print(sorted({"torch", "jax", "mlx", "mlx.core"} & set(sys.modules)))
    """
    output = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True)
    assert output.stdout.strip() == "[]"
