"""Gradients, tangents, batching and compilation of gqmm.mlx's functions, against MLX's or, where it has none, the definition."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

drop_in = pytest.importorskip("gqmm.mlx")
mlx_oracle = pytest.importorskip("mlx_oracle")
mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.mlx

E, N, K = 5, 64, 128


@pytest.fixture
def normal(rng):
    return lambda *shape: mx.array(rng.standard_normal(shape, np.float32))


def close(a, b, tolerance=1e-5):
    """Both sum a few hundred float32 products, in different orders."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert mx.abs(a - b).max().item() <= tolerance * mx.abs(b).max().item()


INDICES = {
    "rhs": {"rhs_indices": [[0, 4], [2, 2], [1, 0]]},
    "lhs": {"lhs_indices": [2, 0, 0, 1, 2]},
    "both": {"lhs_indices": [2, 0, 0, 1], "rhs_indices": [[3, 3, 1, 0], [4, 4, 4, 2]]},
    "sorted": {"lhs_indices": [2, 0, 1], "rhs_indices": [0, 0, 3], "sorted_indices": True},
    "neither": {},
}


def call(indices):
    """x of a shape for these indices, and they as arrays."""
    shape = {"rhs": (3, 1, 2), "lhs": (3, 2), "both": (3, 2), "sorted": (3, 2), "neither": (E, 2)}[indices]
    return shape, {name: v if isinstance(v, bool) else mx.array(v, mx.uint32) for name, v in INDICES[indices].items()}


def loss(product, weight):
    """A scalar in which every element of the product has a different part."""

    def function(*arrays):
        y = product(*arrays)
        return (y * mx.broadcast_to(weight, y.shape) + 0.1 * y * y).sum()

    return function


def dense_gather_qmm(x, w, scales, biases, lhs_indices=None, rhs_indices=None, transpose=True, sorted_indices=False):
    """The definition, over dequantized weights."""
    matrices = mx.dequantize(w, scales, biases)
    if transpose:
        matrices = matrices.swapaxes(-1, -2)

    def select(a, indices):
        return a if indices is None else a.reshape(-1, *a.shape[-2:])[indices]

    return select(x, lhs_indices) @ select(matrices, rhs_indices)


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("indices", INDICES)
def test_gradients_of_gather_qmm_are_mlxs(normal, indices, transpose):
    leading, arguments = call(indices)
    w, scales, biases = mx.quantize(normal(E, N, K))
    x = normal(*leading, K if transpose else N)
    weight = normal(N if transpose else K)

    def gradients(function):
        product = loss(lambda x, s, b: function(x, w, s, b, transpose=transpose, **arguments), weight)
        return mx.grad(product, argnums=(0, 1, 2))(x, scales, biases)

    # MLX has none of scales and biases without transpose.
    reference = mx.gather_qmm if transpose else dense_gather_qmm
    for ours, theirs in zip(gradients(drop_in.gather_qmm), gradients(reference), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize(("x_leading", "w_leading"), [((3,), ()), ((2, 3), ()), ((4, 3), (4,)), ((2, 1, 3), (1, 4))])
def test_gradients_of_quantized_matmul_are_mlxs(normal, x_leading, w_leading, transpose):
    w, scales, biases = mx.quantize(normal(*w_leading, N, K))
    x = normal(*x_leading, K if transpose else N)
    weight = normal(N if transpose else K)
    # Its gradients of scales and biases take w to have two dimensions.
    argnums = (0, 1, 2) if not w_leading else (0,)

    def gradients(function):
        product = loss(lambda x, s, b: function(x, w, s, b, transpose=transpose), weight)
        return mx.grad(product, argnums=argnums)(x, scales, biases)

    for ours, theirs in zip(gradients(drop_in.quantized_matmul), gradients(mx.quantized_matmul), strict=True):
        close(ours, theirs)


def test_gradients_of_batched_scales_are_those_of_each_matrix(normal):
    w, scales, biases = mx.quantize(normal(4, N, K))
    x, weight = normal(4, 3, K), normal(N)

    def gradients(x, w, s, b):
        return mx.grad(loss(lambda s, b: drop_in.quantized_matmul(x, w, s, b), weight), argnums=(0, 1))(s, b)

    together = gradients(x, w, scales, biases)
    each = [gradients(x[i], w[i], scales[i], biases[i]) for i in range(4)]
    for ours, theirs in zip(together, zip(*each, strict=True), strict=True):
        close(ours, mx.stack(theirs))


@pytest.mark.parametrize("indices", ["rhs", "lhs", "both", "sorted"])
def test_gradients_of_gather_mm_are_mlxs(normal, indices):
    leading, arguments = call(indices)
    a, b, weight = normal(*leading, K), normal(E, K, N), normal(N)

    def gradients(function):
        return mx.grad(loss(lambda a, b: function(a, b, **arguments), weight), argnums=(0, 1))(a, b)

    for ours, theirs in zip(gradients(drop_in.gather_mm), gradients(mx.gather_mm), strict=True):
        close(ours, theirs)


def test_gradients_have_the_types_of_their_arrays(normal):
    w, scales, biases = mx.quantize(normal(E, N, K))
    x = normal(3, 1, 2, K).astype(mx.bfloat16)
    rhs = mx.array([[0], [4], [2]])

    def f(x, s, b):
        return drop_in.gather_qmm(x, w, s, b, rhs_indices=rhs).sum()

    gradients = mx.grad(f, argnums=(0, 1, 2))(x, scales, biases.astype(mx.float16))
    assert [g.dtype for g in gradients] == [mx.bfloat16, mx.float32, mx.float16]


def test_second_derivatives(normal):
    w, scales, biases = mx.quantize(normal(N, K))
    x = normal(2, K)

    def gradient_norm(function):
        return mx.grad(lambda x: (mx.grad(lambda x: (function(x, w, scales, biases) ** 2).sum())(x) ** 2).sum())(x)

    close(gradient_norm(drop_in.quantized_matmul), gradient_norm(mx.quantized_matmul))


@pytest.mark.parametrize("mode", [setting.mode for setting in mlx_oracle.of_mlx(oracle.MICROSCALING)])
def test_floating_point_modes_have_gradients_of_x_alone(normal, mode):
    w, scales = mx.quantize(normal(E, N, K), mode=mode)
    x = normal(3, 1, 2, K)
    rhs = mx.array([[0, 4], [2, 2], [1, 0]])
    ours, theirs = (
        mx.grad(lambda x, f=f: (f(x, w, scales, rhs_indices=rhs, mode=mode) ** 2).sum())(x)
        for f in (drop_in.gather_qmm, mx.gather_qmm)
    )
    close(ours, theirs)
    for function in (drop_in.gather_qmm, mx.gather_qmm):
        with pytest.raises(ValueError, match=f"no gradient wrt scales in {mode} quantization"):
            mx.vjp(lambda s, f=function: f(x, w, s, rhs_indices=rhs, mode=mode), [scales], [mx.ones((3, 2, 2, N))])


def test_codes_and_indices_have_no_gradient(normal):
    w, scales, biases = mx.quantize(normal(E, N, K))
    x, rhs = normal(3, 2, K), mx.array([0, 1, 2])
    with pytest.raises(RuntimeError, match="no gradient wrt the quantized weights"):
        mx.vjp(lambda w: drop_in.gather_qmm(x, w, scales, biases, rhs_indices=rhs), [w], [mx.ones((3, 2, N))])
    with pytest.raises(RuntimeError, match="indices have no gradient"):
        mx.vjp(lambda i: drop_in.gather_qmm(x, w, scales, biases, rhs_indices=i), [rhs], [mx.ones((3, 2, N))])
    with pytest.raises(RuntimeError, match=r"\[quantized_matmul\] no gradient wrt the quantized weights"):
        mx.vjp(lambda w: drop_in.quantized_matmul(x, w, scales[:3], biases[:3]), [w[:3]], [mx.ones((3, 2, N))])
    with pytest.raises(ValueError, match="indices have no gradient"):
        mx.vjp(lambda i: drop_in.gather_mm(x, normal(E, K, N), rhs_indices=i), [rhs], [mx.ones((3, 2, N))])


@pytest.mark.parametrize("indices", INDICES)
def test_tangents_of_gather_qmm(normal, indices):
    leading, arguments = call(indices)
    w, scales, biases = mx.quantize(normal(E, N, K))
    x = normal(*leading, K)
    tangents = [normal(*a.shape) for a in (x, scales, biases)]

    def f(x, s, b):
        return drop_in.gather_qmm(x, w, s, b, **arguments)

    (y,), (dy,) = mx.jvp(f, [x, scales, biases], tangents)
    close(y, f(x, scales, biases))
    dx, ds, db = tangents
    close(dy, f(dx, scales, biases) + f(x, ds, db))
    close(mx.jvp(lambda x: f(x, scales, biases), [x], [dx])[1][0], f(dx, scales, biases))
    close(mx.jvp(lambda s: f(x, s, biases), [scales], [ds])[1][0], f(x, ds, mx.zeros_like(db)))
    close(mx.jvp(lambda b: f(x, scales, b), [biases], [db])[1][0], f(x, mx.zeros_like(ds), db))


def test_tangents_of_the_other_products(normal):
    w, scales, biases = mx.quantize(normal(N, K))
    x, dx = normal(2, 3, K), normal(2, 3, K)
    ours, theirs = (
        mx.jvp(lambda x, f=f: f(x, w, scales, biases), [x], [dx])[1][0] for f in (drop_in.quantized_matmul, mx.quantized_matmul)
    )
    close(ours, theirs)
    a, b, da, db = normal(2, 3, K), normal(E, K, N), normal(2, 3, K), normal(E, K, N)
    rhs = mx.array([4, 1])

    def f(a, b):
        return drop_in.gather_mm(a, b, rhs_indices=rhs)

    _, (dy,) = mx.jvp(f, [a, b], [da, db])
    close(dy, f(da, b) + f(a, db))


BATCHED = {  # axis of the batch in x, w (with scales and biases), lhs_indices, rhs_indices
    "x": (0, None, None, None),
    "x, last axis": (3, None, None, None),
    "w": (None, 0, None, None),
    "w, inner axis": (None, 1, None, None),
    "x and w": (1, 0, None, None),
    "rhs": (None, None, None, 0),
    "x and rhs": (0, None, None, 1),
    "everything": (2, 1, 0, 0),
}


def moved(a, axis, batch):
    """`batch` copies of a, each a little different, along the axis (None: a itself)."""
    if axis is None:
        return a
    if a.dtype == mx.uint32 and a.ndim == 1:  # indices
        return mx.stack([(a + i) % 3 for i in range(batch)], axis)
    return mx.stack([mx.roll(a, i, 0) for i in range(batch)], axis)


@pytest.mark.parametrize(
    ("indices", "axes"),
    [
        pytest.param(indices, axes, id=f"{indices}-{name}")
        for indices in ("both", "rhs", "neither")
        for name, axes in BATCHED.items()
        if indices != "neither" or axes[2:] == (None, None)
    ],
)
def test_batching_gather_qmm_is_stacking(normal, indices, axes):
    if indices == "rhs" and axes[2] is not None:
        axes = (*axes[:2], None, axes[3])
    x = normal(E, 2, K)
    weights = mx.quantize(normal(E, N, K))
    arrays = [x, *weights]
    where = [axes[0], axes[1], axes[1], axes[1]]
    if indices == "both":
        arrays.append(mx.array([2, 0, 1, 1], mx.uint32))
        where.append(axes[2])
    if indices != "neither":
        arrays.append(mx.array([0, 2, 2, 1] if indices == "both" else [2, 0, 1, 1, 0], mx.uint32))
        where.append(axes[3])
    batched = [moved(a, axis, 3) for a, axis in zip(arrays, where, strict=True)]

    def f(x, w, s, b, *i):
        names = {"both": ("lhs_indices", "rhs_indices"), "rhs": ("rhs_indices",), "neither": ()}[indices]
        return drop_in.gather_qmm(x, w, s, b, **dict(zip(names, i, strict=True)))

    each = [f(*(a if axis is None else mx.take(a, i, axis) for a, axis in zip(batched, where, strict=True))) for i in range(3)]
    close(mx.vmap(f, in_axes=tuple(where))(*batched), mx.stack(each), 0)


@pytest.mark.parametrize(("x_leading", "w_leading"), [((3,), ()), ((2, 3), ()), ((4, 3), (4,)), ((2, 4, 3), (4,))])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (1, 0)], ids=str)
def test_batching_quantized_matmul_is_stacking(normal, x_leading, w_leading, axes):
    x = moved(normal(*x_leading, K), axes[0], 3)
    weights = [moved(a, axes[1], 3) for a in mx.quantize(normal(*w_leading, N, K))]
    where = (axes[0], axes[1], axes[1], axes[1])
    each = [
        drop_in.quantized_matmul(
            *(a if axis is None else mx.take(a, i, axis) for a, axis in zip([x, *weights], where, strict=True))
        )
        for i in range(3)
    ]
    close(mx.vmap(drop_in.quantized_matmul, in_axes=where)(x, *weights), mx.stack(each), 0)


@pytest.mark.parametrize("bad", [E, -1])
@pytest.mark.parametrize("which", ["lhs_indices", "rhs_indices"])
def test_a_batch_does_not_reach_into_its_neighbours(normal, which, bad):
    weights = [mx.stack([a, a, a]) for a in mx.quantize(normal(E, N, K))]
    x, good, wrong = normal(3, E, 2, K), mx.array([[0, 1]] * 3), mx.array([[0, 1], [0, bad], [0, 1]])
    lhs, rhs = (wrong, good) if which == "lhs_indices" else (good, wrong)

    def f(x, w, s, b, lhs, rhs):
        return drop_in.gather_qmm(x, w, s, b, lhs, rhs)

    with pytest.raises(RuntimeError, match=rf"\[gather_qmm\] {which}\[1, 1\] = {bad} is out of range"):
        mx.eval(mx.vmap(f)(x, *weights, lhs, rhs))


def test_batching_gather_mm_is_stacking(normal):
    a, b, rhs = normal(3, 4, 2, K), normal(E, 3, K, N), mx.array([[0, 1, 2, 3], [4, 4, 0, 0], [1, 2, 1, 2]])

    def f(a, b, i):
        return drop_in.gather_mm(a, b, rhs_indices=i)

    close(mx.vmap(f, in_axes=(0, 1, 0))(a, b, rhs), mx.stack([f(a[i], b[:, i], rhs[i]) for i in range(3)]), 0)


def test_batching_global_scales(normal):
    w, scales = mx.quantize(normal(E, N, K), mode="nvfp4")
    x, rhs = normal(2, 1, K), mx.array([3, 1])
    per_matrix = mx.abs(normal(3, E))

    def f(x, w, s, g):
        return drop_in.gather_qmm(x, w, s, rhs_indices=rhs, mode="nvfp4", global_scale=g)

    each = mx.stack([f(x, w, scales, g) for g in per_matrix])
    close(mx.vmap(f, in_axes=(None, None, None, 0))(x, w, scales, per_matrix), each, 0)
    single = mx.array([2.0])
    batched = mx.vmap(f, in_axes=(None, 0, 0, None))(x, mx.stack([w, w[::-1]]), mx.stack([scales, scales[::-1]]), single)
    close(batched, mx.stack([f(x, w, scales, single), f(x, w[::-1], scales[::-1], single)]), 0)


@pytest.mark.parametrize("scale", [mx.array(2.0), mx.array([2.0]), mx.array([[[2.0]]])], ids=["()", "(1,)", "(1, 1, 1)"])
@pytest.mark.parametrize("leading", [(), (E,), (2, E)], ids=str)
def test_a_single_global_scale_has_any_shape(normal, scale, leading):
    w, scales = mx.quantize(normal(3, *leading, N, K), mode="nvfp4")
    x = normal(*leading, 2, K)

    def f(w, s):
        return drop_in.gather_qmm(x, w, s, mode="nvfp4", global_scale=scale)

    close(mx.vmap(f)(w, scales), mx.stack([f(w[i], scales[i]) for i in range(3)]), 0)
    wider = drop_in.gather_qmm(normal(4, *leading, 2, K), w[0], scales[0], mode="nvfp4", global_scale=scale)
    assert wider.shape == (4, *leading, 2, N)
    assert mx.isfinite(wider).all()


@pytest.mark.parametrize("product", ["gather_qmm", "gather_mm"])
def test_gradients_of_weights_have_transforms_of_their_own(normal, product):
    """Second derivatives, tangents and batches of what a segmented product computes, which has none of them in MLX."""
    w, scales, biases = mx.quantize(normal(E, N, K))
    b, lhs, rhs = normal(E, K, N), mx.array([0, 2, 2, 1]), mx.array([3, 3, 0, 4])

    def ours(x, weight):
        if product == "gather_mm":
            return drop_in.gather_mm(x, weight, lhs, rhs)
        return drop_in.gather_qmm(x, w, weight, biases, lhs, rhs)

    def dense(x, weight):
        if product == "gather_mm":
            return x[lhs] @ weight[rhs]
        return dense_gather_qmm(x, w, weight, biases, lhs, rhs)

    x, weight = normal(3, 2, K), b if product == "gather_mm" else scales

    def gradient(f):
        return lambda x, weight: mx.grad(lambda weight: (f(x, weight) ** 2).sum())(weight)

    def norm_of_gradient(f):
        return lambda x, weight: (gradient(f)(x, weight) ** 2).sum()

    for argnum in (0, 1):
        close(*(mx.grad(norm_of_gradient(f), argnums=argnum)(x, weight) for f in (ours, dense)))
    tangents = [normal(*x.shape), normal(*weight.shape)]
    (g,), (dg,) = mx.jvp(gradient(ours), [x, weight], tangents)  # dense gathers have no tangents in MLX; so by their adjoint:
    adjoint = mx.vjp(gradient(ours), [x, weight], [g])[1]
    close((g * dg).sum(), sum((a * t).sum() for a, t in zip(adjoint, tangents, strict=True)), 1e-4)
    many = normal(3, *x.shape)
    batched = mx.vmap(gradient(ours), in_axes=(0, None))(many, weight)
    close(batched, mx.stack([gradient(ours)(one, weight) for one in many]))


def test_empty_arrays_have_gradients_and_batches(normal):
    weights = mx.quantize(normal(E, N, K))
    w, scales, biases = weights

    def f(x, s, **indices):
        return drop_in.gather_qmm(x, w, s, biases, **indices).sum()

    for x, indices in [
        (mx.zeros((3, 0, K)), {"rhs_indices": mx.array([0, 1, 2])}),
        (normal(3, 2, K), {"lhs_indices": mx.zeros((0,), mx.uint32), "rhs_indices": mx.zeros((0,), mx.uint32)}),
    ]:
        d_x, d_s = mx.grad(lambda x, s, i=indices: f(x, s, **i), argnums=(0, 1))(x, scales)
        assert d_x.shape == x.shape
        assert mx.array_equal(d_s, mx.zeros_like(scales))
    none = [a[:0] for a in weights]
    batched = mx.vmap(lambda x: drop_in.gather_qmm(x, *none, rhs_indices=mx.zeros((0,), mx.uint32)))(normal(2, 1, 3, K))
    assert batched.shape == (2, 0, 3, N)


@pytest.mark.parametrize("bad", [7, 300_000, -1])
@pytest.mark.parametrize("which", ["lhs_indices", "rhs_indices"])
@pytest.mark.parametrize("argnum", [0, 1])
def test_gradients_check_indices_themselves(normal, argnum, which, bad):
    """Of a sum, nothing evaluates the product, which would check them."""
    w, scales, biases = mx.quantize(normal(E, N, K))
    indices = {"lhs_indices": mx.array([0, 1, 2]), "rhs_indices": mx.array([0, 1, 2])}
    indices[which] = mx.array([0, 1, bad])
    gradient = mx.grad(lambda x, s: drop_in.gather_qmm(x, w, s, biases, **indices).sum(), argnums=argnum)(normal(3, 2, K), scales)
    with pytest.raises(RuntimeError, match=rf"{which}\[2\] = {bad} is out of range"):
        mx.eval(gradient)


def test_programs_own_transforms_compose(normal):
    weights = mx.quantize(normal(E, N, K))
    x, rhs = normal(3, 2, K), mx.array([4, 0, 2])

    def f(x):
        return (drop_in.gather_qmm(x, *weights, rhs_indices=rhs) ** 2).sum()

    close(mx.grad(mx.checkpoint(f))(x), mx.grad(f)(x), 0)
    outer = mx.vmap(mx.grad(lambda x: mx.vmap(f)(x).sum()))(mx.stack([mx.stack([x, 2 * x]), mx.stack([3 * x, x])]))
    close(outer[1, 0], mx.grad(f)(3 * x))
    _, (dy,) = mx.jvp(lambda i: drop_in.gather_qmm(x, *weights, rhs_indices=i), [rhs], [rhs])
    assert mx.array_equal(dy, mx.zeros((3, 2, N)))
    alone = drop_in.gather_qmm(x, *weights, rhs_indices=mx.array(3), lhs_indices=mx.array(1))
    assert mx.array_equal(alone, drop_in.quantized_matmul(x[1], *(a[3] for a in weights)))


def test_gradients_per_sample(normal):
    weights = mx.quantize(normal(E, N, K))
    x, rhs = normal(3, 4, 1, K), mx.array([[0, 1, 2, 3], [4, 4, 0, 0], [1, 2, 1, 2]])

    def gradient(x, i):
        return mx.grad(lambda x: (drop_in.gather_qmm(x, *weights, rhs_indices=i) ** 2).sum())(x)

    close(mx.vmap(gradient)(x, rhs), mx.stack([gradient(x[i], rhs[i]) for i in range(3)]))


@pytest.mark.parametrize("shapeless", [False, True])
def test_compiled_functions_give_the_same_bits(normal, shapeless):
    weights = mx.quantize(normal(E, N, K))
    dense = normal(E, N, 8)

    def f(x, rhs):
        y = drop_in.gather_qmm(x, *weights, rhs_indices=rhs)
        return drop_in.gather_mm(mx.tanh(y), dense, rhs_indices=rhs) + drop_in.quantized_matmul(x, *(a[0] for a in weights)).sum()

    compiled = mx.compile(f, shapeless=shapeless)
    for rows in (3, 7, 2):
        x, rhs = normal(rows, 1, K), mx.array(np.arange(rows) % E)
        close(compiled(x, rhs), f(x, rhs), 2e-7 if shapeless else 1e-6)
    gradient = mx.compile(mx.grad(lambda x, rhs: f(x, rhs).sum()))
    close(gradient(x, rhs), mx.grad(lambda x, rhs: f(x, rhs).sum())(x, rhs), 1e-6)


def test_compiled_functions_without_shapes_broadcast_anew(normal):
    """Several heads over one quantized cache that grows."""
    compiled = mx.compile(drop_in.quantized_matmul, shapeless=True)
    q = normal(1, 2, 4, 3, K)
    for length in (8, 16):
        keys = mx.quantize(normal(1, 2, 1, length, K))
        close(compiled(q, *keys), drop_in.quantized_matmul(q, *keys), 0)


def test_equal_products_of_a_compiled_function_are_computed_once(normal):
    weights = mx.quantize(normal(E, N, K))
    x, rhs = normal(3, 1, K), mx.array([0, 1, 2])

    def f(x):
        twice = drop_in.gather_qmm(x, *weights, rhs_indices=rhs) + drop_in.gather_qmm(x, *weights, rhs_indices=rhs)
        other = drop_in.gather_qmm(x, *weights, rhs_indices=rhs, precision="fast")
        return twice - 2 * other

    close(mx.compile(f)(x), f(x), 1e-6)
    assert mx.abs(f(x)).max().item() > 0
