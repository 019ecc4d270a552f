"""What is installed: signatures, documentation, types, version, the command."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect
import json
import pathlib
import subprocess
import sys
import sysconfig

import gqmm
import pytest

SIGNATURES = {
    "gather_qmm": "(x, w, /, scales=None, biases=None, lhs_indices=None, rhs_indices=None, transpose=True, group_size=None, "
    "bits=None, mode='affine', global_scale=None, *, sorted_indices=False, missing='error', "
    "precision='default', stream=None)",
    "quantized_matmul": "(x, w, /, scales=None, biases=None, transpose=True, group_size=None, bits=None, mode='affine', *, "
    "precision='default', stream=None)",
    "gather_mm": "(a, b, /, lhs_indices=None, rhs_indices=None, *, sorted_indices=False, stream=None)",
    "activate": "(gate, up, activation, *, stream=None, out=None)",
    "scaled_dot_product_attention": "(q, k, v, *, scale, mask=None, sinks=None, origin=None, stream=None, out=None)",
    "rms_norm": "(x, weight, eps, *, stream=None, out=None)",
    "layer_norm": "(x, weight, bias, eps, *, stream=None, out=None)",
    "softmax": "(x, axis=-1, *, precise=False, stream=None, out=None)",
    "rope": "(x, dims, *, traditional=False, base=10000.0, scale=1.0, offset=0, freqs=None, stream=None, out=None)",
    "depthwise_conv1d": "(x, weight, *, stride=1, padding=0, dilation=1, stream=None, out=None)",
    "gated_delta_update": "(q, k, v, g, beta, state=None, mask=None, *, stream=None, out=None, state_out=None)",
    "ssm_update": "(hidden_states, A_log, B, C, D, dt, dt_bias, state=None, time_step_limit=(0.001, 100.0), mask=None, "
    "lengths=None, *, stream=None, out=None, state_out=None)",
    "moe_ffn": "(x, topk_ids, topk_weights, gate, up, down, *, activation=SwiGLU(alpha=1.0, limit=None, bias=0.0), "
    "gate_up_order='gate_up', gate_bias=None, up_bias=None, down_bias=None, router_weight_on_input=False, missing='error', "
    "local_experts=None, shared=None, precision='default', stream=None, out=None)",
    "grouped_qmm": "(x, weights, offsets, *, rows='error', precision='default', stream=None, out=None)",
    "grouped_mm": "(x, b, offsets, *, rows='error', stream=None, out=None)",
    "quantized_scaled_dot_product_attention": "(q, q_keys, q_values, *, scale, mask=None, origin=None, group_size=64, bits=8, "
    "stream=None, out=None)",
    "moe_combine": "(slots, topk_weights, *, out=None, stream=None)",
    "quantize": "(w, /, group_size=None, bits=None, mode='affine', *, global_scale=None, stream=None)",
    "dequantize": "(w, /, scales=None, biases=None, group_size=None, bits=None, mode='affine', global_scale=None, dtype=None, *, "
    "stream=None)",
    "pack": "(w, scales=None, biases=None, *, group_size=None, bits=None, mode='affine', transpose=True, stream=None)",
    "unpack": "(w, /, *, like=None)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_documented_ones(name):
    signature = inspect.signature(getattr(gqmm, name))
    bare = signature.replace(
        parameters=[p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    assert str(bare) == SIGNATURES[name]


@pytest.mark.mlx
def test_the_layer_over_mlxs_arrays_has_the_arguments_of_gqmms():
    """All but out, since graphs make their own memory. The default of precision is what install() was given."""
    layer = pytest.importorskip("gqmm.mlx").moe_ffn
    ours, theirs = (dict(inspect.signature(function).parameters) for function in (layer, gqmm.moe_ffn))
    assert list(ours) == [name for name in theirs if name != "out"]
    for name, parameter in ours.items():
        assert parameter.kind == theirs[name].kind, name
        assert parameter.default == (None if name == "precision" else theirs[name].default), name
        assert f"    {name}: " in inspect.getdoc(layer), name


@pytest.mark.parametrize("name", ["gather_qmm", "quantized_matmul", "pack"])
def test_defaults_that_weights_replace_still_equal_what_they_show(name):
    parameters = inspect.signature(getattr(gqmm, name)).parameters
    assert parameters["transpose"].default == True  # noqa: E712
    assert parameters["mode"].default == "affine"


def test_everything_public_is_documented():
    assert set(SIGNATURES) <= set(gqmm.__all__)
    for name in gqmm.__all__:
        assert hasattr(gqmm, name)
        if name != "__version__":
            assert inspect.getdoc(getattr(gqmm, name)), name
    for name in SIGNATURES:
        documentation = inspect.getdoc(getattr(gqmm, name))
        for parameter in inspect.signature(getattr(gqmm, name)).parameters:
            assert f"    {parameter}: " in documentation, (name, parameter)
        assert "Raises:" in documentation


@pytest.mark.parametrize("name", ["gather_qmm", "quantized_matmul", "quantize", "dequantize", "pack"])
def test_docstrings_name_every_mode(name):
    """The extension's list of formats fills them in; no name of a gap is left."""
    documentation = inspect.getdoc(getattr(gqmm, name))
    assert "{" not in documentation
    for each in gqmm.formats():
        assert each.mode in documentation


def test_formats_have_one_default_for_each_mode():
    formats = gqmm.formats()
    assert len({(each.mode, each.bits) for each in formats}) == len(formats)
    for each in formats:
        assert each.default_group_size in each.group_sizes
        assert [other.is_default for other in formats if other.mode == each.mode].count(True) == 1


def test_the_version_is_the_distributions():
    assert gqmm.__version__ == importlib.metadata.version("gqmm")


def test_the_contract_about_bits_has_a_version_with_digests():
    version = gqmm.numerics_contract()
    assert type(version) is int
    contracts = pathlib.Path(__file__).parents[1] / "conformance" / "contract"
    assert version == max(int(file.stem) for file in contracts.iterdir())


def test_the_package_holds_its_own_files_alone():
    files = importlib.metadata.files("gqmm")
    outside = [
        str(file)
        for file in files
        if file.parts[0] not in ("gqmm", f"gqmm-{gqmm.__version__}.dist-info")
        and not str(file).endswith(("bin/gqmm", "gqmm.pth"))
        and "_editable" not in str(file)
    ]
    assert not outside
    assert importlib.resources.files("gqmm").joinpath("py.typed").is_file()


def test_the_command_is_installed_beside_python():
    program = pathlib.Path(sysconfig.get_path("scripts")) / "gqmm"
    output = subprocess.run([program, "info", "--format", "json"], check=True, capture_output=True, text=True)
    assert gqmm.__version__ in json.dumps(json.loads(output.stdout))


def test_the_committed_types_are_those_of_the_extension(tmp_path):
    """python/gqmm/_gqmm.pyi: written by the build target gqmm_stub."""
    pytest.importorskip("nanobind", reason="nanobind, which writes the types, is not installed")
    written = tmp_path / "_gqmm.pyi"
    subprocess.run([sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "gqmm._gqmm", "-o", written], check=True)
    assert written.read_text() == importlib.resources.files("gqmm").joinpath("_gqmm.pyi").read_text()
