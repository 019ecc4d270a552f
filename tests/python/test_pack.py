"""Packed weights give the bits of the original arrays, and hold their settings."""

from __future__ import annotations

import os
import subprocess
import sys

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting


def packed_from(weights):
    return gqmm.pack(*weights.arrays(), **weights.setting.arguments(), transpose=weights.transpose)


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("transpose", [True, False], ids=["transposed", "plain"])
@pytest.mark.parametrize("setting", oracle.SETTINGS, ids=str)
def test_packed_weights_give_the_bits_of_the_originals(rng, setting, transpose, dtype):
    N, K = (19, 256) if transpose else (256, 19)
    weights = oracle.random_weights(rng, setting, (3,), N, K, dtype=dtype, transpose=transpose)
    x = rng.standard_normal((4, 2, K)).astype(dtype)
    rhs = np.array([2, 0, 2, 1])
    in_place = gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs, **weights.arguments())
    assert oracle.same_bits(gqmm.gather_qmm(x, packed_from(weights), rhs_indices=rhs), in_place)
    in_place = gqmm.quantized_matmul(x[:3], *weights.arrays(), **weights.arguments())
    assert oracle.same_bits(gqmm.quantized_matmul(x[:3], packed_from(weights)), in_place)


def test_packed_weights_describe_themselves(rng):
    weights = oracle.random_weights(rng, Setting("affine", 6, 32), (2, 3), 5, 64)
    packed = packed_from(weights)
    assert (packed.mode, packed.bits, packed.group_size, packed.transpose) == ("affine", 6, 32, True)
    assert packed.shape == (2, 3, 5, 64)
    assert packed.nbytes >= sum(a.nbytes for a in weights.arrays())
    assert repr(packed).startswith("<gqmm.PackedWeights (2, 3, 5, 64) affine 6-bit, groups of 32")


def test_packed_weights_are_a_copy(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (2,), 5, 128)
    x = rng.standard_normal((2, 1, 128)).astype(np.float32)
    packed = packed_from(weights)
    before = gqmm.gather_qmm(x, packed)
    weights.w[:] = 0
    assert oracle.same_bits(gqmm.gather_qmm(x, packed), before)


@pytest.mark.parametrize(
    "repeated",
    [
        {},
        {"transpose": None, "mode": None, "group_size": None, "bits": None},
        {"transpose": False},
        {"mode": "affine", "group_size": 32, "bits": 6},
    ],
    ids=str,
)
def test_settings_that_agree_may_be_repeated(rng, repeated):
    weights = oracle.random_weights(rng, Setting("affine", 6, 32), (2,), 64, 5, transpose=False)
    x = rng.standard_normal((2, 1, 5)).astype(np.float32)
    for op in (gqmm.gather_qmm, gqmm.quantized_matmul):
        assert op(x, packed_from(weights), **repeated).shape == (2, 1, 64)


@pytest.mark.parametrize(
    ("repeated", "message"),
    [
        ({"transpose": True}, r"transpose = (true|True) but w was packed with transpose = (false|False)"),
        ({"mode": "mxfp4"}, r"mode = .?mxfp4.? but w was packed with mode = .?affine"),
        ({"group_size": 64}, r"group_size = 64 but w was packed with group_size = 32"),
        ({"bits": 4}, r"bits = 4 but w was packed with bits = 6"),
        ({"scales": np.ones(1, np.float32)}, r"scales is given but w is packed"),
        ({"biases": np.ones(1, np.float32)}, r"biases is given but w is packed"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_contradict_the_packed_ones_are_errors(rng, repeated, message):
    """Even those equal to the defaults of the signature, when they are given."""
    weights = oracle.random_weights(rng, Setting("affine", 6, 32), (2,), 64, 5, transpose=False)
    x = rng.standard_normal((2, 1, 5)).astype(np.float32)
    for op in (gqmm.gather_qmm, gqmm.quantized_matmul):
        with pytest.raises(ValueError, match=rf"\[{op.__name__}\] {message}"):
            op(x, packed_from(weights), **repeated)


def test_an_explicit_mode_is_compared_even_if_it_is_the_default(rng):
    packed = packed_from(oracle.random_weights(rng, Setting("mxfp4", 4, 32), (2,), 3, 64))
    x = rng.standard_normal((2, 1, 64)).astype(np.float32)
    assert gqmm.gather_qmm(x, packed).shape == (2, 1, 3)
    with pytest.raises(ValueError, match=r"\[gather_qmm\] mode"):
        gqmm.gather_qmm(x, packed, mode="affine")


def test_packed_weights_take_the_global_scale_of_the_call(rng):
    weights = oracle.random_weights(rng, Setting("nvfp4", 4, 16), (2,), 3, 64)
    x = rng.standard_normal((2, 1, 64)).astype(np.float32)
    scale = np.float32([0.5, 3])
    expected = gqmm.gather_qmm(x, *weights.arrays(), mode="nvfp4", global_scale=scale)
    assert oracle.same_bits(gqmm.gather_qmm(x, packed_from(weights), global_scale=scale), expected)
    with pytest.raises(ValueError, match=r"\[gather_qmm\] global_scale has shape \(3,\) but the leading shape of w is \(2,\)"):
        gqmm.gather_qmm(x, packed_from(weights), global_scale=np.ones(3, np.float32))
    affine = packed_from(oracle.random_weights(rng, Setting("affine", 4, 64), (2,), 3, 64))
    with pytest.raises(ValueError, match=r'\[gather_qmm\] global_scale is given but mode "affine" has none'):
        gqmm.gather_qmm(x, affine, global_scale=scale)


def test_packed_weights_are_made_by_pack_alone():
    with pytest.raises(TypeError):
        gqmm.PackedWeights()


def test_a_saved_file_gives_the_same_bits(rng, tmp_path):
    packed = packed_from(oracle.random_weights(rng, Setting("mxfp4", 4, 32), (2,), 19, 64))
    x = rng.standard_normal((2, 3, 64)).astype(np.float32)
    packed.save(tmp_path / "w.gqmm")
    loaded = gqmm.PackedWeights.load(str(tmp_path / "w.gqmm"))
    assert repr(loaded) == repr(packed)
    assert oracle.same_bits(gqmm.gather_qmm(x, loaded), gqmm.gather_qmm(x, packed))


def test_a_file_that_is_none_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match=r"absent\] cannot open: No such file"):
        gqmm.PackedWeights.load(tmp_path / "absent")
    (tmp_path / "text").write_text("no weights at all")
    with pytest.raises(OSError, match=r"text\] the header should take"):
        gqmm.PackedWeights.load(tmp_path / "text")


def test_a_file_is_saved_whole_or_not_at_all(rng, tmp_path):
    packed = packed_from(oracle.random_weights(rng, Setting("mxfp4", 4, 32), (2,), 19, 64))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"pipe\] is a named pipe, which is never replaced"):
        packed.save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link").symlink_to("file")
    packed.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert repr(gqmm.PackedWeights.load(tmp_path / "file")) == repr(packed)
    (tmp_path / "file").write_text("old")
    limit = (
        "import resource, sys, gqmm; import numpy as np; w = gqmm.quantize(np.ones((64, 64), np.float32), mode='mxfp4');"
        "packed = gqmm.pack(*w, mode='mxfp4'); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); packed.save(sys.argv[1])"
    )
    failed = subprocess.run([sys.executable, "-c", limit, tmp_path / "file"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1, failed
    assert "OSError" in failed.stderr
    assert "File too large" in failed.stderr
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


@pytest.mark.parametrize("transpose", [True, False], ids=["transposed", "plain"])
@pytest.mark.parametrize("setting", oracle.SETTINGS, ids=str)
def test_unpacking_gives_back_every_bit(rng, tmp_path, setting, transpose):
    N, K = (19, 256) if transpose else (256, 19)
    weights = oracle.random_weights(rng, setting, (2, 3), N, K, dtype=oracle.bfloat16, transpose=transpose)
    packed = packed_from(weights)
    packed.save(tmp_path / "w.gqmm")
    for same in (packed, gqmm.PackedWeights.load(tmp_path / "w.gqmm")):
        unpacked = gqmm.unpack(same)
        assert unpacked._fields == ("w", "scales", "biases", "global_scale")
        assert unpacked.global_scale is None
        assert (unpacked.biases is None) == (weights.biases is None)
        for ours, original in zip(unpacked, weights.arrays(), strict=False):
            assert type(ours) is np.ndarray
            assert ours.flags.writeable
            assert oracle.same_bits(ours, original)


def test_unpacked_arrays_are_a_copy(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (2,), 5, 128)
    packed = packed_from(weights)
    first = gqmm.unpack(packed)
    first.w[:] = 0
    assert oracle.same_bits(gqmm.unpack(packed).w, weights.w)


def test_unpack_names_what_is_wrong(rng):
    packed = packed_from(oracle.random_weights(rng, Setting("affine", 4, 64), (2,), 3, 64))
    for wrong, kind in ((np.zeros((2, 8), np.uint32), "ndarray"), (None, "NoneType")):
        with pytest.raises(TypeError, match=rf"^\[unpack\] w: expected PackedWeights, got {kind}$"):
            gqmm.unpack(wrong)
    with pytest.raises(TypeError, match=r"^\[unpack\] like: expected an array .* got str"):
        gqmm.unpack(packed, like="torch")


def test_packed_weights_are_no_array(rng):
    packed = packed_from(oracle.random_weights(rng, Setting("affine", 4, 64), (2,), 3, 64))
    for op in (gqmm.quantize, lambda w: gqmm.dequantize(w, w), lambda w: gqmm.pack(w, w), lambda w: gqmm.gather_mm(w, w)):
        with pytest.raises(TypeError, match=r"expected an array .* got PackedWeights"):
            op(packed)
