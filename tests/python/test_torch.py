"""PyTorch tensors in place, and results as tensors."""

from __future__ import annotations

import copy
import pickle

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting

torch = pytest.importorskip("torch", reason="PyTorch is not installed (./dev test all installs it)")
pytestmark = pytest.mark.torch

DTYPES = {torch.float32: oracle.float32, torch.float16: oracle.float16, torch.bfloat16: oracle.bfloat16}


def to_torch(a):
    if a.dtype == oracle.bfloat16:
        return torch.from_numpy(np.ascontiguousarray(a).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def to_numpy(t):
    return t.view(torch.int16).numpy().view(oracle.bfloat16) if t.dtype == torch.bfloat16 else t.numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_give_the_bits_of_numpy(rng, dtype):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 5, 128, dtype=DTYPES[dtype])
    x = rng.standard_normal((3, 4, 128)).astype(DTYPES[dtype])
    rhs = np.array([2, 0, 1])
    y = gqmm.gather_qmm(to_torch(x), *map(to_torch, weights.arrays()), rhs_indices=torch.from_numpy(rhs))
    assert isinstance(y, torch.Tensor)
    assert y.dtype == dtype
    assert oracle.same_bits(to_numpy(y), gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs))


def test_every_function_returns_tensors(rng):
    w = torch.from_numpy(rng.standard_normal((3, 5, 128)).astype(np.float32))
    codes, scales, biases = gqmm.quantize(w)
    assert (codes.dtype, scales.dtype, biases.dtype) == (torch.uint32, torch.float32, torch.float32)
    assert gqmm.dequantize(codes, scales, biases, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert isinstance(gqmm.quantized_matmul(w, codes, scales, biases), torch.Tensor)
    assert isinstance(gqmm.gather_mm(w, w.mT), torch.Tensor)
    packed = gqmm.pack(codes, scales, biases)
    assert isinstance(gqmm.gather_qmm(w, packed), torch.Tensor)
    unpacked = gqmm.unpack(packed, like=w)[:3]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(unpacked, (codes, scales, biases), strict=True))
    assert all(a.is_contiguous() for a in (codes, scales, biases))


def test_views_are_read_in_place(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 5, 128)
    x = torch.from_numpy(rng.standard_normal((128, 6, 3)).astype(np.float32)).permute(2, 1, 0)[:, ::2]
    assert not x.is_contiguous()
    y = gqmm.gather_qmm(x, *map(torch.from_numpy, weights.arrays()))
    assert oracle.same_bits(y.numpy(), gqmm.gather_qmm(x.numpy(), *weights.arrays()))


def test_results_outlive_everything_else(rng):
    w = torch.from_numpy(rng.standard_normal((2, 64)).astype(np.float32))
    codes, scales, biases = gqmm.quantize(w)
    back = gqmm.dequantize(codes, scales, biases)
    expected = back.clone()
    del w, codes, scales, biases
    tail = back[1:]
    del back
    assert torch.equal(tail, expected[1:])
    tail += 1


def test_empty_results(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 5, 128)
    y = gqmm.gather_qmm(torch.zeros(3, 0, 128), *weights.arrays())
    assert y.shape == (3, 0, 5)


def test_x_decides_whose_the_result_is(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 5, 128)
    x = rng.standard_normal((3, 4, 128)).astype(np.float32)
    assert isinstance(gqmm.gather_qmm(torch.from_numpy(x), *weights.arrays()), torch.Tensor)
    assert isinstance(gqmm.gather_qmm(x, *map(torch.from_numpy, weights.arrays())), np.ndarray)


def test_tensors_that_require_grad_are_refused_with_the_remedy():
    parameter = torch.nn.Parameter(torch.ones(2, 64))
    with pytest.raises(ValueError, match=r"\[quantize\] w: it requires grad, .*pass w.detach\(\)"):
        gqmm.quantize(parameter)
    assert len(gqmm.quantize(parameter.detach())) == 3


def test_lazily_negated_tensors_are_read_as_what_they_mean():
    w = torch.randn(2, 64, dtype=torch.complex64).conj().imag
    assert w.is_neg()
    for lazy, resolved in zip(gqmm.quantize(w), gqmm.quantize(w.resolve_neg()), strict=True):
        assert torch.equal(lazy, resolved)


@pytest.mark.parametrize("make", [lambda t: t.to_sparse(), lambda t: t.to("meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_memory_are_refused(make):
    with pytest.raises(ValueError, match=r"\[quantize\] w: its library does not lend the memory: "):
        gqmm.quantize(make(torch.ones(2, 64)))


@pytest.mark.parametrize("setting", oracle.MICROSCALING, ids=str)
def test_scales_may_have_their_own_type(rng, setting):
    weights = oracle.random_weights(rng, setting, (3,), 5, 128)
    w, scales = map(torch.from_numpy, weights.arrays())
    x = torch.from_numpy(rng.standard_normal((3, 2, 128)).astype(np.float32))
    expected = gqmm.gather_qmm(x, w, scales, **setting.arguments())
    typed = scales.view(getattr(torch, setting.format.scales))
    assert torch.equal(gqmm.gather_qmm(x, w, typed, **setting.arguments()), expected)
    with pytest.raises(ValueError, match=r"scales: element type float8_e5m2 does not fit mode .*pass scales.view\(uint8\)"):
        gqmm.gather_qmm(x, w, scales.view(torch.float8_e5m2), **setting.arguments())


def test_tensors_of_transforms_are_refused():
    with pytest.raises(ValueError, match=r"\[quantize\] w: its library does not lend the memory: "):
        torch.vmap(lambda w: gqmm.quantize(w)[0])(torch.ones(2, 2, 64))
    with pytest.raises(ValueError, match=r"\[quantize\] w: it requires grad"):
        torch.func.grad(lambda w: gqmm.dequantize(*gqmm.quantize(w)).sum())(torch.ones(2, 64))


def test_complex_tensors_are_refused_conjugate_or_not():
    for w in (torch.ones(2, 64, dtype=torch.complex64), torch.ones(2, 64, dtype=torch.complex64).conj()):
        with pytest.raises(ValueError, match=r"\[quantize\] w: element type DLPack \(code 5, 64 bits"):
            gqmm.quantize(w)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_a_gpu_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"\[quantize\] w: its memory is on CUDA device 0.*w.cpu\(\)"):
        gqmm.quantize(torch.ones(2, 64, device="cuda"))


def test_quantized_weights_hold_tensors(rng):
    weights = gqmm.QuantizedWeights(*gqmm.quantize(torch.from_numpy(rng.standard_normal((3, 5, 128)).astype(np.float32))))
    x = torch.from_numpy(rng.standard_normal((3, 2, 128)).astype(np.float32))
    assert isinstance(weights.w, torch.Tensor)
    assert isinstance(gqmm.dequantize(weights), torch.Tensor)
    expected = gqmm.gather_qmm(x, weights.w, weights.scales, weights.biases)
    again = pickle.loads(pickle.dumps(weights))
    for same in (weights, again, copy.deepcopy(weights), gqmm.pack(weights)):
        assert torch.equal(gqmm.gather_qmm(x, same), expected)
