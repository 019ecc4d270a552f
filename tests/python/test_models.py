"""The language model of examples/ on real checkpoints: published losses, and the same bits however tokens are batched.

The checkpoint in models/ is always tested; others are those under the folder that GQMM_TEST_MODELS names.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gqmm
import ml_dtypes
import numpy as np
import pytest
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from demo_parts import MODEL as OURS
from demo_parts import TOLERANCE, WINDOW, other_models, published_loss, validation_tokens
from qwen3_moe import Cache, Checkpoint, Model, losses

ROOT = Path(__file__).resolve().parents[2]


def other_checkpoints() -> list[Any]:
    name = os.environ.get("GQMM_TEST_MODELS")
    if not name:
        why = "GQMM_TEST_MODELS is not set: it names a folder with more checkpoints to test"
    elif found := other_models():
        return [pytest.param(path, id=path.name) for path in found]
    else:
        why = f"GQMM_TEST_MODELS names {name}, where there is no checkpoint"
    return [pytest.param(None, id="GQMM_TEST_MODELS", marks=pytest.mark.skip(reason=why))]


@cache
def tokens_of(folder: Path) -> list[int]:
    return validation_tokens(folder, Tokenizer.from_file(str(folder / "tokenizer.json")))


def loss_of_each_prediction(operators: Any) -> np.ndarray:
    return np.concatenate(list(losses(Model(OURS, operators), tokens_of(OURS), WINDOW)))


@pytest.mark.parametrize("folder", [pytest.param(OURS, id=OURS.name), *other_checkpoints()])
def test_float32_loss_is_the_published_one(folder: Path) -> None:
    published = published_loss(folder)
    assert published is not None, f"no loss for {folder.name} in {folder.parent / 'README.md'}"
    each = np.concatenate(list(losses(Model(folder, gqmm), tokens_of(folder), WINDOW)))
    assert each.shape == (2048,)
    assert each.mean() == pytest.approx(published, rel=0, abs=TOLERANCE)


class Bfloat16Products:
    """gqmm on bfloat16 activations and scales, the results widened: the model around the products stays float32."""

    dequantize = staticmethod(gqmm.dequantize)

    @staticmethod
    def narrow(x: np.ndarray) -> np.ndarray:
        return x.astype(ml_dtypes.bfloat16)

    def quantized_matmul(self, x: np.ndarray, w: np.ndarray, *scales: np.ndarray, **settings: Any) -> np.ndarray:
        y = gqmm.quantized_matmul(self.narrow(x), w, *map(self.narrow, scales), **settings)
        assert y.dtype == ml_dtypes.bfloat16
        return y.astype(np.float32)

    def gather_qmm(self, x: np.ndarray, w: np.ndarray, *scales: np.ndarray, **settings: Any) -> np.ndarray:
        y = gqmm.gather_qmm(self.narrow(x), w, *map(self.narrow, scales), **settings)
        assert y.dtype == ml_dtypes.bfloat16
        return y.astype(np.float32)


class RoundedFloat32Products(Bfloat16Products):
    """What bfloat16 products would be without any error of their own: float32 products of rounded operands, rounded."""

    def quantized_matmul(self, x: np.ndarray, w: np.ndarray, *scales: np.ndarray, **settings: Any) -> np.ndarray:
        return self.narrow(gqmm.quantized_matmul(self.narrow(x).astype(np.float32), w, *scales, **settings)).astype(np.float32)

    def gather_qmm(self, x: np.ndarray, w: np.ndarray, *scales: np.ndarray, **settings: Any) -> np.ndarray:
        return self.narrow(gqmm.gather_qmm(self.narrow(x).astype(np.float32), w, *scales, **settings)).astype(np.float32)


def test_bfloat16_products_move_the_losses_no_more_than_rounding_to_bfloat16_does() -> None:
    exact = loss_of_each_prediction(gqmm)
    rounding = (loss_of_each_prediction(RoundedFloat32Products()) - exact) ** 2
    moved = (loss_of_each_prediction(Bfloat16Products()) - exact) ** 2
    # Both are means of 2,048 draws from one distribution if the promise holds; their difference has the standard error
    # sqrt(2 / 2048)·σ, and four of those are exceeded once in 30,000 times.
    allowance = rounding.mean() + 4 * np.sqrt(2 / len(rounding)) * rounding.std()
    assert rounding.mean() > 0
    assert moved.mean() <= allowance


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_logits_are_the_same_bits_whether_tokens_come_at_once_or_in_chunks(chunk: int) -> None:
    model, tokens = Model(OURS, gqmm), tokens_of(OURS)[:48]

    def cache() -> Cache:
        # NumPy's matmul, which attention uses, sums in an order that depends on the shape. In float64 the difference is a
        # billionth of a float32's last place, so that only gqmm's products could change the bits.
        return Cache(model.config, len(tokens), np.float64)

    parts, at_once = cache(), model(tokens, cache())
    chunks = [model(tokens[start : start + chunk], parts) for start in range(0, len(tokens), chunk)]
    np.testing.assert_array_equal(np.concatenate(chunks).view(np.uint32), at_once.view(np.uint32))


class RowByRow:
    """gqmm, each product computed a second time one row after the other; both must be the same bits."""

    dequantize = staticmethod(gqmm.dequantize)

    def __init__(self) -> None:
        self.rows = 0

    def quantized_matmul(self, x: np.ndarray, *weights: np.ndarray, **settings: Any) -> np.ndarray:
        y = gqmm.quantized_matmul(x, *weights, **settings)
        self.compare(y, np.stack([gqmm.quantized_matmul(row, *weights, **settings) for row in x]))
        return y

    def gather_qmm(
        self, x: np.ndarray, *weights: np.ndarray, lhs_indices: np.ndarray, rhs_indices: np.ndarray, **settings: Any
    ) -> np.ndarray:
        y = gqmm.gather_qmm(x, *weights, lhs_indices=lhs_indices, rhs_indices=rhs_indices, **settings)
        pairs = zip(*(pair.ravel() for pair in np.broadcast_arrays(lhs_indices, rhs_indices)), strict=True)
        rows = [
            gqmm.gather_qmm(x, *weights, lhs_indices=np.array(lhs), rhs_indices=np.array(rhs), **settings) for lhs, rhs in pairs
        ]
        self.compare(y, np.stack(rows).reshape(y.shape))
        return y

    def compare(self, batch: np.ndarray, alone: np.ndarray) -> None:
        np.testing.assert_array_equal(batch.view(np.uint32), alone.view(np.uint32))
        self.rows += batch.size // batch.shape[-1]


@pytest.mark.parametrize("folder", [pytest.param(OURS, id=OURS.name), *other_checkpoints()])
def test_every_product_of_a_prompt_gives_each_row_the_bits_it_has_alone(folder: Path) -> None:
    operators, length = RowByRow(), 24
    model = Model(folder, operators)
    model(tokens_of(folder)[:length])
    config = model.config
    a_layer = 4 + 1 + 3 * config["num_experts_per_tok"]  # q, k, v, o; the router; gate, up and down of the chosen experts
    assert operators.rows == length * (config["num_hidden_layers"] * a_layer + 1)


def test_codes_are_used_where_the_file_maps_them_at_odd_addresses() -> None:
    for name, (dtype, array) in Checkpoint(OURS).tensors.items():
        if dtype == "U32":
            assert array.ctypes.data % 2 == 1, name
    for name, matrix in Model(OURS, gqmm).matrices.items():
        assert not matrix.w.flags.owndata, f"{name} was copied"
        assert not matrix.w.flags.writeable, f"{name} is no view of the read-only map"


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--no-mlx", "--tokens", "3", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def test_the_demo_prints_the_published_loss() -> None:
    result = run_demo()
    assert result.returncode == 0, result.stderr
    assert "loss 3.00141 (published 3.00141)" in result.stdout
    assert "\r" not in result.stdout, "progress bars are for terminals"


def test_the_demo_fails_when_the_loss_is_not_the_published_one(tmp_path: Path) -> None:
    (tmp_path / OURS.name).symlink_to(OURS)
    shutil.copy(OURS.parent / "valid.txt", tmp_path)
    readme = (OURS.parent / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(readme.replace("3.00141", "3.00161"), encoding="utf-8")
    result = run_demo("--model", str(tmp_path / OURS.name))
    assert result.returncode == 1
    assert "the losses differ by 2.0e-04, more than 1e-04" in result.stderr


def test_the_demo_of_mlx_lm_gets_the_same_losses_and_text_from_both_sides() -> None:
    for module in ("mlx_lm", "gqmm.mlx"):
        pytest.importorskip(module)
    demo = str(ROOT / "examples" / "mlx_lm_demo.py")
    command = [sys.executable, demo, str(OURS), "--tokens", "3", "--predictions", "128"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    parts = result.stdout.split(f"{OURS.name}, ")
    assert [part.partition(":")[0] for part in parts[1:]] == ["float32", "bfloat16"]
    assert "Both write:" in parts[1]
    assert "reading" in parts[1]
    assert "gather_qmm: 0 calls of gqmm's" not in parts[2]
