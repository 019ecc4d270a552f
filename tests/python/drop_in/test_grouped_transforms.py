"""grouped_mm and grouped_qmm over arrays of MLX: batches, also over offsets, their gradients, and errors."""

from __future__ import annotations

import gqmm
import numpy as np
import pytest

drop_in = pytest.importorskip("gqmm.mlx")
mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.mlx

E, H, I = 4, 64, 32  # noqa: E741


@pytest.fixture
def grouped(rng):
    """grouped_mm and grouped_qmm as functions of rows and offsets, rows, and offsets of three batches."""
    b = mx.array(rng.standard_normal((E, H, I), dtype=np.float32))
    arrays = mx.quantize(mx.array(rng.standard_normal((E, I, H), dtype=np.float32)), group_size=32)
    weights = gqmm.QuantizedWeights(*arrays, group_size=32)
    functions = {
        "grouped_mm": lambda x, offsets: drop_in.grouped_mm(x, b, offsets, rows="zero"),
        "grouped_qmm": lambda x, offsets: drop_in.grouped_qmm(x, weights, offsets, rows="zero"),
    }
    x = mx.array(rng.standard_normal((3, 7, H), dtype=np.float32))
    return functions, x, mx.array([[1, 1, 4, 7], [0, 0, 0, 0], [2, 3, 5, 6]], mx.int32)


@pytest.mark.parametrize("name", ["grouped_mm", "grouped_qmm"])
class TestGroupedProducts:
    @pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None), (1, 1)], ids=str)
    def test_batching_is_stacking(self, grouped, name, axes):
        functions, x, offsets = grouped
        f = functions[name]
        each = mx.stack([f(x[0 if axes[0] is None else i], offsets[0 if axes[1] is None else i]) for i in range(3)])
        given = [a[0] if axis is None else mx.moveaxis(a, 0, axis) for a, axis in zip((x, offsets), axes, strict=True)]
        assert mx.array_equal(mx.vmap(f, in_axes=axes)(*given), each)

    def test_nested_empty_and_compiled_batches(self, grouped, name):
        functions, x, offsets = grouped
        f = functions[name]
        each = mx.stack([f(x[i], offsets[i]) for i in range(3)])
        nested = mx.vmap(mx.vmap(f))(mx.stack([x, x[::-1]]), mx.stack([offsets, offsets[::-1]]))
        assert mx.array_equal(nested, mx.stack([each, each[::-1]]))
        assert mx.array_equal(mx.compile(mx.vmap(f))(x, offsets), each)
        assert mx.vmap(f)(x[:0], offsets[:0]).shape == (0, 7, I)

    def test_gradients_of_a_batch(self, grouped, name):
        functions, x, offsets = grouped

        def gradient(x, offsets):
            return mx.grad(lambda x: (functions[name](x, offsets) ** 2).sum())(x)

        each = mx.stack([gradient(x[i], offsets[i]) for i in range(3)])
        assert mx.allclose(mx.vmap(gradient)(x, offsets), each, rtol=1e-6, atol=1e-6 * mx.abs(each).max().item())

    def test_offsets_have_no_gradient(self, grouped, name):
        functions, x, offsets = grouped
        f = functions[name]
        with pytest.raises((RuntimeError, ValueError), match=r"indices have no gradient"):
            mx.vjp(lambda o: f(x[0], o), [offsets[0]], [mx.ones((7, I))])
        _, (dy,) = mx.jvp(lambda o: f(x[0], o), [offsets[0]], [offsets[0]])
        assert mx.array_equal(dy, mx.zeros((7, I)))

    def test_offsets_of_another_shape_or_type_are_refused_at_once(self, grouped, name):
        functions, x, offsets = grouped
        with pytest.raises(ValueError, match=rf"\[{name}\] offsets has shape \(3,\); with 4 experts it must be \(4,\)"):
            functions[name](x[0], offsets[0, :3])
        with pytest.raises(ValueError, match=rf"\[{name}\] offsets has type uint32; convert it to int32 or int64"):
            functions[name](x[0], offsets[0].astype(mx.uint32))

    def test_wrong_offsets_of_one_element(self, grouped, name):
        functions, x, offsets = grouped
        offsets[1, 2] = 9
        with pytest.raises(RuntimeError, match=rf"\[{name}\] offsets\[2\] = 9 follows 0 and x has 7 rows"):
            mx.eval(mx.vmap(functions[name])(x, offsets))
