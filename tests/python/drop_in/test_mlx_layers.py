"""Norms, softmax, rotary embeddings and dense products through MLX: values and transforms against stock."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

pytest.importorskip("gqmm.mlx")

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx.nn as nn

pytestmark = pytest.mark.mlx

stock_rms_norm, stock_rope, stock_matmul = mx.fast.rms_norm, mx.fast.rope, mx.matmul
stock_layer_norm, stock_softmax = mx.fast.layer_norm, mx.softmax
DTYPES = [mx.float32, mx.float16, mx.bfloat16]
TOLERANCE = {mx.float32: 2e-6, mx.float16: 4e-3, mx.bfloat16: 3e-2}  # stock rounds twice, and cosines to the half type


@pytest.fixture(autouse=True)
def _seed():
    mx.random.seed(5)


def counts(name):
    calls = drop_in.status().calls[name]
    return calls.ours, calls.stock


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm(dtype, weighted):
    x = mx.random.normal((2, 7, 48)).astype(dtype)
    weight = mx.random.normal((48,)).astype(dtype) if weighted else None
    before = counts("rms_norm")
    ours = drop_in.rms_norm(x, weight, 1e-5)
    assert counts("rms_norm") == (before[0] + 1, before[1])
    stock = stock_rms_norm(x, weight, 1e-5)
    assert ours.dtype == stock.dtype
    assert mx.allclose(ours, stock, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_norm(dtype, weighted, biased):
    x = mx.random.normal((2, 48, 7)).astype(dtype).swapaxes(1, 2)
    weight = mx.random.normal((48,)).astype(dtype) if weighted else None
    bias = mx.random.normal((48,)).astype(dtype) if biased else None
    before = counts("layer_norm")
    ours = drop_in.layer_norm(x, weight, bias, 1e-5)
    assert counts("layer_norm") == (before[0] + 1, before[1])
    stock = stock_layer_norm(x, weight, bias, 1e-5)
    assert ours.dtype == stock.dtype
    assert mx.allclose(ours, stock, atol=2 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [-1, 0, [0, 2], (1, -1), None], ids=str)
def test_softmax(dtype, axis):
    x = (3 * mx.random.normal((3, 5, 20))).astype(dtype)
    before = counts("softmax")
    ours = drop_in.softmax(x, axis)
    assert counts("softmax") == (before[0] + 1, before[1])
    stock = stock_softmax(x, axis, precise=True)
    assert (ours.dtype, ours.shape) == (stock.dtype, stock.shape)
    assert mx.allclose(ours, stock, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert mx.array_equal(drop_in.softmax(x, axis, precise=True), ours)


def test_special_values_are_stocks():
    x = mx.array([[0, 1, 2], [-mx.inf] * 3, [0, mx.inf, 1], [mx.nan, 0, 1], [-mx.inf, 0, 1]])
    for ours, stock in (
        (drop_in.softmax(x, -1), stock_softmax(x, -1)),
        (drop_in.layer_norm(x, None, None, 1e-5), stock_layer_norm(x, None, None, 1e-5)),
    ):
        assert mx.allclose(ours, stock, equal_nan=True)
    for shape in [(0, 3), (3, 0), (3, 1)]:
        x = mx.ones(shape)
        assert mx.array_equal(drop_in.softmax(x, -1), stock_softmax(x, -1))
        assert mx.array_equal(drop_in.layer_norm(x, None, None, 1e-5), stock_layer_norm(x, None, None, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{"base": 1e4}, {"base": None, "freqs": True}], ids=["base", "freqs"])
@pytest.mark.parametrize("offset", [0, 5, "array"])
@pytest.mark.parametrize("traditional", [True, False])
def test_rope(dtype, options, offset, traditional):
    x = mx.random.normal((2, 3, 6, 32)).astype(dtype)
    options = dict(options)
    if "freqs" in options:
        options["freqs"] = mx.random.uniform(1, 100, (12,))
    offset = mx.array([1, 4]) if offset == "array" else offset
    arguments = {"traditional": traditional, "scale": 0.5, "offset": offset, **options}
    before = counts("rope")
    ours = drop_in.rope(x, 24, **arguments)
    assert counts("rope") == (before[0] + 1, before[1])
    stock = stock_rope(x, 24, **arguments)
    assert ours.dtype == stock.dtype
    assert mx.allclose(ours, stock, atol=2 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("a", "b"),
    [((5, 12), (12, 7)), ((12,), (12, 7)), ((5, 12), (12,)), ((12,), (12,)), ((3, 5, 12), (12, 7)), ((2, 1, 5, 12), (3, 12, 7))],
)
def test_matmul(dtype, a, b):
    a, b = mx.random.normal(a).astype(dtype), mx.random.normal(b).astype(dtype)
    before = counts("matmul")
    ours = drop_in.matmul(a, b)
    assert counts("matmul") == (before[0] + 1, before[1])
    stock = stock_matmul(a.astype(mx.float32), b.astype(mx.float32))
    assert (ours.dtype, ours.shape) == (dtype, stock.shape)
    assert mx.allclose(ours.astype(mx.float32), stock, atol=2 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_addmm_and_the_operator_of_arrays():
    c, a, b = mx.random.normal((7,)), mx.random.normal((5, 12)), mx.random.normal((12, 7))
    expected = mx.addmm(c, a, b, alpha=2.0, beta=0.5)
    assert mx.allclose(drop_in.addmm(c, a, b, alpha=2.0, beta=0.5), expected, atol=1e-5)
    matmul_of_arrays = mx.array.__matmul__
    layer = nn.Linear(12, 7)
    stock = layer(a), a @ b
    before = counts("matmul")
    with drop_in.install(only=["matmul"]):
        ours = layer(a), a @ b, mx.matmul(a, b)
        with pytest.raises((TypeError, ValueError)):
            a @ 3
    assert counts("matmul")[0] == before[0] + 3
    assert mx.array.__matmul__ is matmul_of_arrays
    assert mx.allclose(ours[0], stock[0], atol=1e-5)
    assert mx.allclose(ours[1], stock[1], atol=1e-5)
    assert mx.array_equal(ours[1], ours[2])


# Products of matrices, with their operands' dimensions in every order, with and without a batch.
PRODUCTS = ["ij,jk->ik", "ji,kj->ki", "bij,bjk->bik", "bhqd,bhkd->bhqk", "bqhd,bkhd->bhqk", "i,i->", "ij,j->i", "ijk,kjl->li"]
# A sum over one operand, a diagonal, no summed subscript, no result, one operand, three operands.
OTHERS = [("ij,jk->k", 2), ("ii,ik->ik", 2), ("ij,kl->ijkl", 2), ("ij,jk", 2), ("ij->ji", 1), ("ij,jk,kl->il", 3)]


@pytest.mark.parametrize("subscripts", PRODUCTS)
def test_einsum_of_a_product_of_matrices(subscripts):
    sizes = dict(zip("abcdefghijklmnopqrstuvwxyz", [2, 3, 4, 5] * 7, strict=False))
    terms = subscripts.split("->")[0].split(",")
    operands = [mx.random.normal([sizes[name] for name in term]) for term in terms]
    stock = mx.einsum(subscripts, *operands)
    before = counts("matmul")
    with drop_in.install(only=["matmul"]):
        ours = mx.einsum(subscripts, *operands)
    assert counts("matmul") == (before[0] + 1, before[1])
    assert ours.shape == stock.shape
    assert mx.allclose(ours, stock, atol=1e-5)


@pytest.mark.parametrize(("subscripts", "operands"), OTHERS)
def test_any_other_einsum_is_stocks(subscripts, operands):
    arrays = [mx.random.normal((3, 3)) for _ in range(operands)]
    stock = mx.einsum(subscripts, *arrays)
    before = counts("matmul")
    with drop_in.install(only=["matmul"]):
        ours = mx.einsum(subscripts, *arrays)
        with pytest.raises(ValueError, match="einsum"):  # MLX's own error
            mx.einsum("ij,jk->ik", mx.ones((2, 3)), mx.ones((4, 5)))
    assert counts("matmul") == before
    assert mx.array_equal(ours, stock)


def test_products_of_empty_rows_are_stocks():
    a, b = mx.zeros((2, 0)), mx.zeros((0, 3))
    before = counts("matmul")
    with drop_in.install(only=["matmul"]):
        products = [mx.einsum("ij,jk->ik", a, b), mx.matmul(a, b), a @ b, mx.addmm(mx.zeros((3,)), a, b)]
    for y in products:
        assert mx.array_equal(y, mx.zeros((2, 3)))
    assert counts("matmul") == (before[0], before[1] + 4)


def test_a_bias_of_a_wider_type_is_left_to_mlx():
    x, bias = mx.random.normal((2, 8)).astype(mx.float16), mx.ones(8)
    before = counts("layer_norm")
    assert drop_in.layer_norm(x, None, bias, 1e-5).dtype == stock_layer_norm(x, None, bias, 1e-5).dtype == mx.float16
    assert mx.array_equal(drop_in.layer_norm(x, None, None, math.inf), mx.zeros((2, 8)))
    assert counts("layer_norm") == (before[0], before[1] + 2)


def test_einsum_is_recognised_after_another_import():
    program = """
import sys
import mlx.core as mx
import gqmm.mlx
with gqmm.mlx.install():
    for name in [name for name in sys.modules if name.startswith("gqmm.mlx") and name != "gqmm.mlx._mlx"]:
        del sys.modules[name]
    import gqmm.mlx as again
    assert again.status().operators == again.OPERATORS
    einsum = mx.einsum
    with again.install(only=["softmax"]):
        pass
    assert mx.einsum is einsum
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_gqmm_does_not_serve_is_stocks():
    integers = mx.ones((3, 3), mx.int32)
    names = ("matmul", "rope", "rms_norm", "layer_norm", "softmax")
    before = [counts(name) for name in names]
    with pytest.raises(ValueError, match="matmul"):  # MLX's own error
        drop_in.matmul(integers, integers)
    with pytest.raises(ValueError, match="rope"):
        drop_in.rope(mx.ones((2, 4)), 4, traditional=False, base=1e4, scale=1.0, offset=0)
    with pytest.raises(ValueError, match="rms_norm"):
        drop_in.rms_norm(integers, None, 1e-5)
    with pytest.raises(ValueError, match="layer_norm"):
        drop_in.layer_norm(integers, None, None, 1e-5)
    assert mx.array_equal(drop_in.softmax(integers, -1), stock_softmax(integers, -1))
    assert drop_in.softmax(mx.array(2.0)).item() == 1
    after = [counts(name) for name in names]
    assert [b[1] - a[1] for a, b in zip(before, after, strict=True)] == [1, 1, 1, 1, 2]
    with pytest.raises(ValueError, match="axis 2 is no dimension"):
        drop_in.softmax(mx.ones((3, 3)), 2)
    with pytest.raises(ValueError, match=r"bias has shape \(2,\); it must be \(3,\)"):
        drop_in.layer_norm(mx.ones((3, 3)), None, mx.ones((2,)), 1e-5)


def functions():
    """Our functions and stock's, of float arrays, with operands."""
    x, weight = mx.random.normal((2, 3, 16)), mx.random.normal((16,))
    offset = mx.array(3)
    matrix = mx.random.normal((16, 5))
    return {
        "rms_norm": (
            lambda x, w: drop_in.rms_norm(x, w, 1e-5),
            lambda x, w: stock_rms_norm(x, w, 1e-5),
            (x, weight),
        ),
        "layer_norm": (
            lambda x, w, b: drop_in.layer_norm(x, w, b, 1e-5),
            lambda x, w, b: stock_layer_norm(x, w, b, 1e-5),
            (x, weight, weight + 1),
        ),
        "layer_norm with a bias": (
            lambda x, b: drop_in.layer_norm(x, None, b, 1e-5),
            lambda x, b: stock_layer_norm(x, None, b, 1e-5),
            (x, weight),
        ),
        "softmax": (lambda x: drop_in.softmax(x, 0), lambda x: stock_softmax(x, 0), (x,)),
        "softmax of all": (drop_in.softmax, stock_softmax, (x,)),
        "rope": (
            lambda x: drop_in.rope(x, 16, traditional=False, base=1e4, scale=1.0, offset=offset),
            lambda x: stock_rope(x, 16, traditional=False, base=1e4, scale=1.0, offset=offset),
            (x,),
        ),
        "matmul": (drop_in.matmul, stock_matmul, (x, matrix)),
    }


@pytest.mark.parametrize(
    "name", ["rms_norm", "layer_norm", "layer_norm with a bias", "softmax", "softmax of all", "rope", "matmul"]
)
def test_transforms(name):
    ours, stock, operands = functions()[name]
    argnums = tuple(range(len(operands)))

    def squares(function):
        return lambda *arrays: (function(*arrays) ** 2).sum()

    for a, b in zip(mx.grad(squares(ours), argnums)(*operands), mx.grad(squares(stock), argnums)(*operands), strict=True):
        assert mx.allclose(a, b, atol=1e-4, rtol=1e-5)
    tangents = [mx.ones_like(a) for a in operands]
    assert mx.allclose(mx.jvp(ours, operands, tangents)[1][0], mx.jvp(stock, operands, tangents)[1][0], atol=1e-4)
    expected = ours(*operands)
    assert mx.array_equal(mx.compile(ours)(*operands), expected)
    batched = [mx.stack([a, 2 * a, a]) for a in operands]
    together = mx.vmap(ours)(*batched)
    for i in range(3):
        assert mx.array_equal(together[i], ours(*(a[i] for a in batched)))
    assert mx.vmap(ours)(*(a[:0] for a in batched)).shape == (0, *expected.shape)
