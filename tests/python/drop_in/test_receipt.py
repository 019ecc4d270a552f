"""A receipt has one digest, whichever instruction set it is made on, and says which way gives other bits."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm
import mlx.core as mx
from gqmm.mlx import _receipt
from mlx.utils import tree_flatten
from mlx_lm_support import OURS, ROOT, build
from model_bits import RANDOM

pytestmark = pytest.mark.mlx


def run_receipt(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gqmm.mlx", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def line_of(text: str, name: str) -> str:
    (line,) = re.findall(rf"^{re.escape(name)} +(.*)$", text, re.MULTILINE)
    return line


def ways_of(text: str) -> dict[str, list[str]]:
    """Return, by instruction set, the ways that gave the same bits."""
    return {isa: ways.split(", ") for isa, ways in re.findall(r"^same bits:  (\S+): (.*)$", text, re.MULTILINE)}


def saved(name: str, folder: Path) -> Path:
    """Write the random model as a checkpoint."""
    family = RANDOM[name][0]
    model = build(family)
    model.set_dtype(mx.bfloat16)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    config = {**family.full_config(), **({"quantization": family.quantization} if family.quantization else {})}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


SETS = [each.name for each in gqmm.instruction_sets() if each.supported]


@pytest.fixture(scope="module")
def of_all_sets() -> str:
    result = run_receipt("--receipt", OURS)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_it_says_what_it_covers(of_all_sets):
    assert of_all_sets.startswith(f"gqmm {gqmm.__version__}, mlx ")
    assert f", numerics contract {gqmm.numerics_contract()}\n" in of_all_sets
    assert line_of(of_all_sets, "formats:").startswith("affine 4 bits, groups of 64 (")
    assert line_of(of_all_sets, "type:") == "bfloat16, precision default"
    assert {"Attention", "MoeFfn", "QuantizedProduct", "RmsNorm", "Rope"} <= set(line_of(of_all_sets, "gqmm's:").split(", "))
    own = line_of(of_all_sets, "MLX's own:")
    assert "Add" in own
    assert "QuantizedMatmul" not in own
    ways = ways_of(of_all_sets)
    assert ways.keys() == set(SETS)
    assert len(ways[gqmm.active_instruction_set()]) == len(_receipt._WAYS)
    for isa in SETS:
        assert {"at once", "in a batch of 3"} <= set(ways[isa])
    assert "not run" not in of_all_sets


@pytest.mark.parametrize("isa", SETS)
def test_its_digest_is_the_same_on_each_instruction_set(of_all_sets, isa):
    result = run_receipt("--receipt", OURS, GQMM_ISA=isa, GQMM_NUM_THREADS="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert line_of(result.stdout, "digest:") == line_of(of_all_sets, "digest:")
    assert ways_of(result.stdout).keys() == {isa}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="MLX's own operations may have other bits on other processors")
def test_its_digest_is_that_of_the_guide(of_all_sets):
    """The guide has the digest of another machine."""
    guide = (ROOT / "docs" / "guide" / "mlx.md").read_text(encoding="utf-8")
    assert f"    digest:     {line_of(of_all_sets, 'digest:')}\n" in guide


def test_packing_changes_no_bit_and_precision_does(of_all_sets):
    packed = run_receipt("--pack", "--receipt", OURS, GQMM_ISA=SETS[-1])
    assert line_of(packed.stdout, "type:") == "bfloat16, precision default, packed"
    assert line_of(packed.stdout, "digest:") == line_of(of_all_sets, "digest:")
    fast = run_receipt("--precision", "fast", "--receipt", OURS, GQMM_ISA=SETS[-1])
    assert fast.returncode == 0, fast.stdout + fast.stderr
    assert line_of(fast.stdout, "digest:") != line_of(of_all_sets, "digest:")


def test_a_way_with_other_bits_is_named_and_there_is_no_digest(tmp_path):
    """mlx-lm multiplies the matrices of MLA in another order for a single token than for several."""
    result = run_receipt("--receipt", saved("deepseek_v3", tmp_path), GQMM_ISA=SETS[-1])
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"OTHER BITS: {SETS[-1]}: token by token: request 0, from token " in result.stdout
    assert "digest: " not in result.stdout
    assert result.stdout.endswith("\nno digest, because not all ways gave the same bits\n")


@pytest.mark.parametrize(("family", "primitive"), [("qwen3_next", "GatedDelta"), ("nemotron_h", "Ssm")])
def test_a_model_with_states_has_a_digest(tmp_path, family, primitive):
    result = run_receipt("--receipt", saved(family, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert primitive in line_of(result.stdout, "gqmm's:").split(", ")
    assert line_of(result.stdout, "digest:").startswith("sha256:")


def test_the_first_difference_is_found():
    expected = [["a", "b", "c"], ["d"]]
    assert _receipt._difference(expected, expected) is None
    assert _receipt._difference([["a", "x", "y"], ["d"]], expected) == "request 0, from token 1 on, 2 of 3 tokens"
    assert _receipt._difference([["a", "b", "c"], ["x"]], expected) == "request 1, from token 0 on, 1 of 1 tokens"


def test_operators_that_are_left_out_are_mlxs_own(of_all_sets):
    result = run_receipt("--without", "rms_norm", "--receipt", OURS, GQMM_ISA=SETS[-1])
    assert "Rsqrt" in line_of(result.stdout, "MLX's own:")
    assert "Rsqrt" not in line_of(of_all_sets, "MLX's own:")
    assert "RmsNorm" not in line_of(result.stdout, "gqmm's:")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--receipt", "no_such_folder"], "--receipt no_such_folder: there is no config.json; give a folder with a checkpoint"),
        (["--receipt", OURS, "-m", "mlx_lm"], "--receipt runs no program, and on one rank: leave out -m"),
        (["--shard-experts", "contiguous", "--receipt", OURS], "--receipt runs no program, and on one rank: leave out -m"),
        (["--receipt", OURS, "--only", "dot"], "only names 'dot', which is no operator"),
    ],
)
def test_what_cannot_be_done_is_an_error_of_the_command(arguments, message):
    result = run_receipt(*arguments)
    assert result.returncode == 2
    assert message in result.stderr


def test_a_checkpoint_that_cannot_be_loaded_is_an_error(tmp_path):
    shutil.copyfile(OURS / "config.json", tmp_path / "config.json")
    result = run_receipt("--receipt", tmp_path, GQMM_ISA=SETS[-1])
    assert result.returncode == 1
    assert f"[gqmm.mlx] --receipt: the run on {SETS[-1]} failed:" in result.stderr
    assert "No safetensors found" in result.stderr
