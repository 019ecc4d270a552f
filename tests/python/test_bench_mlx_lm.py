"""The benchmark of models through mlx-lm, and of whole models by llama.cpp."""

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_modules import ROOT, load_mlx_lm, load_peers

# Models that take no time. Few repetitions: whether they are right is what is tested, not what comes of them.
TINY_LAYER = {
    "hidden": 128,
    "experts": 16,
    "top": 2,
    "width": 64,
    "heads": 4,
    "kv-heads": 2,
    "head-dim": 32,
    "vocabulary": 64,
    "prompts": 16,
    "decode": 16,
    "repetitions": 1,
    "seconds": 0.1,
    "tiny-turns": 2,
    "pool": 1,
}
TINY_SHAPE = {"name": "tiny", "layers": 2, "hidden": 128, "experts": 16, "top": 2, "width": 64, "heads": 4, "kv_heads": 2,
              "head_dim": 32, "window": 0, "vocabulary": 64, "linear": {}}  # fmt: skip
LINEAR = {"attention_every": 2, "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 64, "kernel": 4}
FAMILIES = {
    "qwen3_moe": TINY_SHAPE | {"family": "qwen3_moe"},
    "qwen3": TINY_SHAPE | {"family": "qwen3", "experts": 0, "top": 0},
    "gpt_oss": TINY_SHAPE | {"family": "gpt_oss", "window": 8},
    "qwen3_next": TINY_SHAPE | {"family": "qwen3_next", "linear": LINEAR},
    "nemotron_h": TINY_SHAPE | {"family": "nemotron_h", "linear": LINEAR},
}
WITHOUT_STATES = [name for name, shape in FAMILIES.items() if not shape["linear"]]


def has_drop_in() -> bool:
    return importlib.util.find_spec("mlx_lm") is not None and importlib.util.find_spec("gqmm.mlx") is not None


class TestMlxLm:
    def run(self, *options: str) -> "subprocess.CompletedProcess[str]":
        program = shutil.which("gqmm", path=Path(sys.executable).parent) or shutil.which("gqmm")
        if program is None:
            pytest.skip("the gqmm program is not installed")
        layer = [text for name, value in TINY_LAYER.items() for text in (f"--{name}", str(value))]
        return subprocess.run([program, "bench", "mlx-lm", *layer, *options], check=False, capture_output=True, text=True)

    def test_both_sides_compute_the_same_layer(self, tmp_path: Path) -> None:
        if not has_drop_in():
            pytest.skip("mlx-lm or gqmm.mlx is not installed")
        path = tmp_path / "figures.json"
        result = self.run("--python", sys.executable, "--dtype", "float32", "--json", str(path))
        assert (result.returncode, result.stderr) == (0, "")
        assert "Where the time goes" in result.stdout
        figures = json.loads(path.read_text())
        (model,) = figures["models"]
        assert [case["name"] for case in model["cases"]] == ["prompt of 16", "decode after 16"]
        for case in model["cases"]:
            assert case["sides"][0]["tokens_per_second"] > 0
            assert case["sides"][0]["of_dram"]["median"] > 0
        (difference,) = model["differences"]
        assert 0 < difference["difference"] < 1e-5, "sums of at most 128 terms in float32, a few layers deep"
        assert [each["case"] for each in model["breakdowns"]] == ["prompt of 16", "decode after 16"]
        for breakdown in model["breakdowns"]:
            assert breakdown["counts"]["ours"] > 0
            assert 0 < breakdown["ours_alone"]["median"] < breakdown["alone"]["median"]
            operations = {each["operation"]: each for each in breakdown["operations"]}
            for name in ("moe_ffn", "quantized_matmul", "scaled_dot_product_attention", "rms_norm", "rope"):
                assert operations[name]["ours"] > 0, name
            assert operations["argpartition"]["ours"] == 0
        assert model["routing"]["experts_hit"] > 8
        calls = [(call["function"], call["calls_per_eval"]) for call in figures["tiny_calls"]]
        assert calls == [(name, each) for name in ("gather_qmm", "quantized_matmul", "gather_mm") for each in (1, 100)]

    def test_models_of_several_layers_stand_beside_llama(self, tmp_path: Path) -> None:
        if not has_drop_in():
            pytest.skip("mlx-lm or gqmm.mlx is not installed")
        path = tmp_path / "figures.json"
        models = ["--layers", "2", "--hidden", "256", "--width", "256", "--requests", "2", "--requests-after", "8"]
        models += ["--dtype", "bfloat16", "--precision", "default"]
        result = self.run(*models, "--python", sys.executable, "--peers", sys.executable, "--json", str(path))
        assert (result.returncode, result.stderr) == (0, "")
        names = ["gqmm bfloat16", "llama.cpp", "MLX bfloat16"]
        figures = json.loads(path.read_text())["models"]
        assert [model["shape"]["name"] for model in figures] == ["qwen3-30b-a3b", "gpt-oss-20b", "qwen3-4b"]
        for model in figures:
            assert [case["name"] for case in model["cases"]] == ["prompt of 16", "decode after 16", "2 requests after 8"]
            for case in model["cases"]:
                assert [side["side"] for side in case["sides"]] == names
                llama = case["sides"][1]
                if importlib.util.find_spec("llama_cpp") is None:
                    assert "llama-cpp-python is not installed" in llama["skipped"]
                else:
                    assert llama["tokens_per_second"] > 0
                    assert case["sides"][0]["times_llama"]["median"] > 0

    @pytest.mark.parametrize("family", WITHOUT_STATES)
    def test_the_work_of_a_call_is_counted(self, family: str) -> None:
        if not has_drop_in():
            pytest.skip("mlx-lm or gqmm.mlx is not installed")
        work, shape = load_mlx_lm("work"), load_mlx_lm("model").Shape.of(FAMILIES[family])
        model = load_mlx_lm("model").RandomModel(shape, "bfloat16")
        attention = 2 * 128 * 2 * 32 + 2 * 128 * 4 * 32
        of_layer = attention + 3 * 128 * 64 * max(shape.top, 1) + 128 * shape.experts
        one = work.work_of(model, work.Case("decode", 20))
        assert one["products"] == 2 * (2 * of_layer + 128 * 64)
        keys = (8 if shape.window else 20) + 20
        assert one["cache_bytes"] == 2 * 2 * 32 * 2 * keys
        assert one["attention"] == 4 * 4 * 32 * ((8 if shape.window else 21) + 21)
        prompt = work.work_of(model, work.Case("prompt", 20))
        # All layers but the last for 20 tokens; of the last one, keys and values for 19 of them, and the head for one.
        assert prompt["products"] == 2 * (20 * of_layer + of_layer + 19 * 2 * 128 * 64 + 128 * 64)
        pairs = sum(min(i + 1, shape.window or 20) for i in range(20)) + 20
        assert prompt["attention"] == 4 * 4 * 32 * pairs
        many = work.work_of(model, work.Case("decode", 20, 10**6))
        everything = work.nbytes(model.model) - work.nbytes(model.model.model.embed_tokens) - work.nbytes(model.model.model.norm)
        assert many["weight_bytes"] == pytest.approx(everything)

    def test_the_work_of_layers_of_mamba_is_counted(self) -> None:
        if not has_drop_in():
            pytest.skip("mlx-lm or gqmm.mlx is not installed")
        work, shape = load_mlx_lm("work"), load_mlx_lm("model").Shape.of(FAMILIES["nemotron_h"])
        model = load_mlx_lm("model").RandomModel(shape, "bfloat16")
        of_experts = 2 * 128 * 64 * 2 + 2 * 128 * 2 * 64  # two experts, and a shared one of twice the width
        inner, channels = 4 * 64, 2 * 2 * 32 + 4 * 64
        mamba = 128 * (inner + channels + 4) + inner * 128
        attention = 128 * 4 * 32 + 2 * 128 * 2 * 32 + 4 * 32 * 128
        one = work.work_of(model, work.Case("decode", 20, 3))
        assert one["products"] == 2 * 3 * (mamba + attention + 2 * of_experts + 128 * 64)
        assert one["attention"] == 3 * (6 * 4 * 64 * 32 + 4 * 4 * 32 * 21)
        assert one["cache_bytes"] == 3 * (4 * 4 * 64 * 32 + 2 * 3 * channels + 2 * 2 * 2 * 32 * 20)
        chosen = work.experts_hit(shape, 3) / shape.experts
        experts = work.nbytes(model.experts)
        rest = sum(work.nbytes(block) for block in model.model.layers) - 2 * experts + work.nbytes(model.model.lm_head)
        assert one["weight_bytes"] == pytest.approx(rest + 2 * experts * chosen)

    def test_the_work_of_layers_with_states_is_counted(self) -> None:
        if not has_drop_in():
            pytest.skip("mlx-lm or gqmm.mlx is not installed")
        work, shape = load_mlx_lm("work"), load_mlx_lm("model").Shape.of(FAMILIES["qwen3_next"])
        model = load_mlx_lm("model").RandomModel(shape, "bfloat16")
        of_experts = 128 * 16 + 3 * 128 * 64 * 2 + 3 * 128 * 64 + 128  # router, two experts, a shared one with its gate
        keys, values, channels = 2 * 32, 4 * 64, 2 * 2 * 32 + 4 * 64
        linear = 128 * (2 * keys + 2 * values) + 128 * 2 * 4 + values * 128
        attention = 2 * 128 * 4 * 32 + 2 * 128 * 2 * 32 + 4 * 32 * 128  # queries have gates
        one = work.work_of(model, work.Case("decode", 20, 3))
        assert one["products"] == 2 * 3 * (linear + attention + 2 * of_experts + 128 * 64)
        assert one["attention"] == 3 * (8 * 4 * 64 * 32 + 4 * 4 * 32 * 21)
        assert one["cache_bytes"] == 3 * (4 * 4 * 64 * 32 + 2 * 3 * channels + 2 * 2 * 2 * 32 * 20)
        prompt = work.work_of(model, work.Case("prompt", 20))
        of_last = attention + of_experts + 19 * 2 * 128 * 64
        assert prompt["products"] == 2 * (20 * (linear + of_experts) + of_last + 128 * 64)
        assert prompt["attention"] == 20 * 8 * 4 * 64 * 32 + 4 * 4 * 32 * 20
        assert prompt["cache_bytes"] == 0

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_side_runs_every_family(self, family: str) -> None:
        if not has_drop_in():
            pytest.skip("mlx-lm or gqmm.mlx is not installed")
        sides, model, jobs, work = (load_mlx_lm(name) for name in ("sides", "model", "jobs", "work"))
        random_model = model.RandomModel(model.Shape.of(FAMILIES[family]), "float32")
        assert load_mlx_lm("checks").difference(random_model, sides.Side("gqmm", "float32")) < 1e-5
        for case in (work.Case("prompt", 20), work.Case("decode", 20), work.Case("decode", 20, 3)):
            job = jobs.Job(random_model, case)
            for who in ("gqmm", "stock"):
                with sides.Side(who, "float32").installed():
                    assert job.turn() > 0
            if case.job == "decode":
                assert {part.offset for part in job.filled() if hasattr(part, "offset")} == {20}, (
                    "a turn leaves the cache as it was"
                )

    def test_types_share_the_codes_of_a_model(self) -> None:
        if not has_drop_in():
            pytest.skip("mlx-lm or gqmm.mlx is not installed")
        import mlx.core as mx

        model = load_mlx_lm("model")
        one = model.RandomModel(model.Shape.of(FAMILIES["gpt_oss"]), "float32")
        other = model.RandomModel(model.Shape.of(FAMILIES["gpt_oss"]), "bfloat16", one)
        for name in ("weight", "scales"):
            assert mx.array_equal(one.experts.gate_proj[name], other.experts.gate_proj[name])
        assert {one.model.lm_head.scales.dtype, other.model.lm_head.scales.dtype} == {mx.float32, mx.bfloat16}

    def test_a_call_that_takes_too_long_is_not_waited_for(self) -> None:
        if not has_drop_in():
            pytest.skip("mlx-lm or gqmm.mlx is not installed")
        answers = load_mlx_lm("main").Answers()
        answers.to({"model": FAMILIES["qwen3_moe"], "dtypes": ["float32"]})
        answers.to({"case": {"job": "prompt", "tokens": 16, "requests": 1}})
        side = {"who": "stock", "dtype": "float32"}
        assert "not waited for" in answers.to({"run": side, "limit": 1e-9})["skipped"]
        assert answers.to({"run": side, "limit": 600})["seconds"] > 0

    def test_a_missing_library_is_named_with_what_installs_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        installed = load_mlx_lm("installed")
        for missing, remedy in {"mlx_lm": "'mlx-lm==", "gqmm.mlx": "pip install ."}.items():
            monkeypatch.setattr(installed, "is_missing", lambda module, missing=missing: module == missing)
            with pytest.raises(installed.NotInstalledError) as caught:
                installed.check_installed()
            assert sys.executable in str(caught.value)
            assert remedy in str(caught.value)

    def test_versions_are_those_that_dev_installs(self) -> None:
        needed = load_mlx_lm("installed").NEEDED
        build = {variable: value for variable, value in os.environ.items() if variable != "GQMM_MLX_VERSION"}
        command = [sys.executable, ROOT / "python/build_backend/mlx_versions.py", "requirements"]
        requirements = subprocess.run(command, env=build, capture_output=True, text=True, check=True).stdout.splitlines()
        assert needed["mlx.core"] in requirements, "what a build of gqmm needs"
        assert f'"{needed["mlx_lm"]}"' in (ROOT / "dev").read_text()

    def test_an_interpreter_without_mlx_is_an_error(self, tmp_path: Path) -> None:
        bare = tmp_path / "python"
        bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')  # -S: no site-packages
        bare.chmod(0o755)
        result = self.run("--python", str(bare))
        assert result.returncode == 2
        assert "lacks what this benchmark measures" in result.stderr
        assert "mlx-lm==" in result.stderr


class TestLlamaModel:
    @pytest.mark.parametrize("family", WITHOUT_STATES)
    def test_llama_loads_and_runs_the_shapes(self, family: str) -> None:
        pytest.importorskip("llama_cpp")
        shape = FAMILIES[family] | {"hidden": 256, "width": 256}
        model = load_peers("llama_model").WholeModel(shape, 1)
        assert "q4_K" in model.formats
        for case in ({"job": "prompt", "tokens": 20, "requests": 1}, {"job": "decode", "tokens": 20, "requests": 3}):
            model.set_up(case)
            assert model.run() > 0
            assert model.run() > 0, "a turn leaves the cache as it was"
        model.close()

    def test_a_shape_without_a_file_says_so(self) -> None:
        pytest.importorskip("llama_cpp")
        with pytest.raises(ValueError, match=r"no file is made of the tensors that llama\.cpp has for tiny"):
            load_peers("llama_model").WholeModel(FAMILIES["qwen3_next"], 1)

    def test_random_blocks_are_finite_weights_of_one_size(self) -> None:
        gguf, ggml = load_peers("gguf_file"), load_peers("ggml")
        pytest.importorskip("llama_cpp")
        library = ggml.Ggml(1)
        for kind, size in itertools.product(("q4_0", "q4_K", "mxfp4"), (0.01, 1.0)):
            blocks = gguf.RandomBlocks(1).some(gguf.Tensor("w", kind, (256, 1000), size=size), 1000)
            weights = np.empty(1000 * gguf.RandomBlocks.KINDS[kind][1], np.float32)
            library.call(f"dequantize_row_{kind}", blocks.ctypes.data, weights.ctypes.data, weights.size)
            assert np.isfinite(weights).all()
            assert 0.6 * size < weights.std() < 1.7 * size
            assert np.abs(weights[weights != 0]).min() > np.finfo(np.float32).tiny
