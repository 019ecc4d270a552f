"""`gqmm quantize` on the folder of a float model: mlx-lm loads the result, whose bits are those of mlx-lm's own conversion."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import mlx_lm.models
from families import FAMILIES
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import dequantize_model, load_model, quantize_model, save_config, save_model
from mlx_lm_support import OURS

pytestmark = pytest.mark.mlx

MODULES = ["deepseek_v3", "glm4_moe", "gpt_oss", "granitemoe", "minimax", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"]
CONFIGS = {module: FAMILIES[module].full_config() for module in MODULES}
CONFIGS["gpt_oss"]["intermediate_size"] = 128  # whole groups of 64 too: MLX multiplies bfloat16 experts only if quantized
TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])


def program() -> str:
    found = shutil.which("gqmm", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("the gqmm program is not installed")
    return found


def quantize(*arguments: str | Path, status: int = 0) -> str:
    """What the program printed: its output, or its message if it must fail."""
    done = subprocess.run([program(), "quantize", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status, done
    return done.stdout if status == 0 else done.stderr


def float_model(module: str) -> nn.Module:
    implementation = importlib.import_module(f"mlx_lm.models.{module}")
    mx.random.seed(7)
    model = implementation.Model(implementation.ModelArgs.from_dict(CONFIGS[module]))
    model.update(tree_map(lambda p: p.astype(mx.bfloat16) if mx.issubdtype(p.dtype, mx.floating) else p, model.parameters()))
    mx.eval(model.parameters())
    return model


def tensors_of(model: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def save_folder(folder: Path, tensors: dict[str, mx.array], config: dict[str, Any], format_name: str = "mlx") -> None:
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": format_name})
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(OURS / name, folder)


def same_bits(a: mx.array, b: mx.array) -> bool:
    return (
        a.dtype == b.dtype and a.shape == b.shape and bytes(memoryview(a.view(mx.uint8))) == bytes(memoryview(b.view(mx.uint8)))
    )


def is_router(layer: str) -> bool:
    return any(part in ("gate", "shared_expert_gate") or "router" in part for part in layer.split("."))


@pytest.mark.parametrize("settings", [("affine", 64, 4), ("mxfp4", 32, 4), ("affine", 32, 3)], ids=str)
@pytest.mark.parametrize("module", MODULES)
def test_every_tensor_is_that_of_mlx_lm(module: str, settings: tuple[str, int, int], tmp_path: Path) -> None:
    mode, group_size, bits = settings
    model = float_model(module)
    save_folder(tmp_path / "in", tensors_of(model), CONFIGS[module])
    quantize(tmp_path / "in", tmp_path / "out", "--mode", mode, "--group-size", str(group_size), "--bits", str(bits))
    ours, config = load_model(tmp_path / "out")
    theirs, their_config = quantize_model(model, CONFIGS[module], group_size, bits, mode)
    expected = tensors_of(theirs)
    kept = {name.removesuffix(".scales") for name in expected.keys() - tensors_of(ours).keys() if name.endswith(".scales")}
    assert all(is_router(layer) for layer in kept), kept
    for name, tensor in tensors_of(ours).items():
        if name.removesuffix(".weight") not in kept:
            assert same_bits(tensor, expected[name]), name
    assert config["quantization"] == config["quantization_config"]
    with_mode = {
        key: {"mode": "affine"} | value if isinstance(value, dict) else value
        for key, value in their_config["quantization"].items()
    }
    assert config["quantization"] == {key: value for key, value in with_mode.items() if key not in kept}
    assert np.isfinite(np.array(ours(TOKENS).astype(mx.float32))).all()


@pytest.mark.parametrize("module", ["qwen3_moe", "gpt_oss"])
def test_routers_of_qwen3_and_gpt_oss_have_8_bits(module: str, tmp_path: Path) -> None:
    save_folder(tmp_path / "in", tensors_of(float_model(module)), CONFIGS[module])
    quantize(tmp_path / "in", tmp_path / "out")
    _, config = load_model(tmp_path / "out")
    routers = [name for name in config["quantization"] if is_router(name)]
    assert routers
    assert all(config["quantization"][name] == {"group_size": 64, "bits": 8, "mode": "affine"} for name in routers)


BLOCK = "model.layers.1."
LAYERS = [
    "lm_head",
    "model.embed_tokens",
    "model.embeddings",
    "model.word_embeddings",
    *(f"{BLOCK}self_attn.{name}" for name in ("q_proj", "o_proj", "g_proj", "res_proj")),
    *(f"{BLOCK}attention.{name}" for name in ("q_a_proj", "embed_q", "unembed_out", "b_proj", "kv_a_proj_with_mqa")),
    *(
        f"{BLOCK}mlp.{name}"
        for name in ("gate", "gate.gate", "gate.proj", "gate.gate_proj", "router", "router.gate", "classifier")
    ),
    *(f"{BLOCK}mlp.{name}" for name in ("shared_expert_gate", "up_proj", "down_proj", "router.classifier")),
    *(f"{BLOCK}{name}" for name in ("router.proj", "feed_forward.gate", "feed_forward.router", "attn.w_lora.lora.2")),
    *(f"{BLOCK}block_sparse_moe.{name}" for name in ("gate", "router.layer")),
]


def predicates() -> dict[str, Any]:
    """What each model of mlx-lm decides about single layers, by model type."""
    found = {}
    for path in sorted(Path(mlx_lm.models.__path__[0]).glob("*.py")):
        if "def quant_predicate" not in path.read_text():
            continue
        model = importlib.import_module(f"mlx_lm.models.{path.stem}").Model
        if "quant_predicate" in vars(model):
            made = MagicMock()
            made.args.num_experts = made.args.text.num_hidden_layers = 8
            predicate = model.quant_predicate.fget(made)
            if isinstance(predicate, FunctionType):  # otherwise that of another model inside this one
                found[path.stem] = predicate
    return found


PREDICATES = predicates()


def test_mlx_lm_decides_about_single_layers_in_many_models() -> None:
    assert len(PREDICATES) > 20


@pytest.mark.parametrize("model_type", PREDICATES)
def test_layers_that_mlx_lm_treats_otherwise_are_treated_so(model_type: str, tmp_path: Path) -> None:
    tensors = {f"{layer}.weight": mx.zeros((64, 64), mx.bfloat16) for layer in LAYERS}
    tensors["model.language_model.layers.1.mlp.experts.up_proj.weight"] = mx.zeros((2, 64, 64), mx.bfloat16)
    save_folder(tmp_path / "in", tensors, {"model_type": model_type})
    plan = json.loads(quantize(tmp_path / "in", "--dry-run", "--format", "json"))["tensors"]
    ours = {tensor["name"].removesuffix(".weight"): tensor["to"] for tensor in plan}
    for layer, to in ours.items():
        theirs = PREDICATES[model_type](layer, None)
        if theirs is False:
            assert to == "BF16", layer
        elif isinstance(theirs, dict):
            assert to == "affine 8-bit, group_size 64", layer
        elif not isinstance(theirs, MagicMock) and not is_router(layer):
            assert to == "affine 4-bit, group_size 64", layer


# The names of experts' layers in Transformers' checkpoints, by MLX's name.
EXPERTS = {
    "qwen2_moe": ("mlp", {"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"}),
    "qwen3_moe": ("mlp", {"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"}),
    "olmoe": ("mlp", {"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"}),
    "mixtral": ("block_sparse_moe", {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}),
}


def with_a_tensor_per_expert(tensors: dict[str, mx.array], module: str) -> dict[str, mx.array]:
    block, layers = EXPERTS.get(module, EXPERTS["qwen3_moe"])
    split = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if "switch_mlp" not in parts:
            split[name] = tensor
            continue
        for expert in range(tensor.shape[0]):
            split[".".join([*parts[:3], block, "experts", str(expert), layers[parts[5]], "weight"])] = tensor[expert]
    assert len(split) > len(tensors)
    return split


@pytest.mark.parametrize("module", EXPERTS)
def test_experts_in_transformers_names_are_stacked(module: str, tmp_path: Path) -> None:
    tensors = tensors_of(float_model(module))
    save_folder(tmp_path / "mlx", tensors, CONFIGS[module])
    save_folder(tmp_path / "transformers", with_a_tensor_per_expert(tensors, module), CONFIGS[module], "pt")
    for name in ("mlx", "transformers"):
        quantize(tmp_path / name, tmp_path / f"{name}-4bit")
    ours, _ = load_model(tmp_path / "transformers-4bit")
    expected = mx.load(str(tmp_path / "mlx-4bit" / "model.safetensors"))
    assert tensors_of(ours).keys() == expected.keys()
    for name, tensor in tensors_of(ours).items():
        assert same_bits(tensor, expected[name]), name


def test_an_expert_that_is_missing_is_an_error(tmp_path: Path) -> None:
    tensors = with_a_tensor_per_expert(tensors_of(float_model("qwen3_moe")), "qwen3_moe")
    del tensors["model.layers.1.mlp.experts.3.up_proj.weight"]
    save_folder(tmp_path / "in", tensors, CONFIGS["qwen3_moe"])
    assert "needs expert 3, which is missing" in quantize(tmp_path / "in", tmp_path / "out", status=2)
    last = max(int(name.split(".")[5]) for name in tensors if ".experts." in name)
    short = {name: tensor for name, tensor in tensors.items() if f".experts.{last}." not in name and ".experts.3." not in name}
    short |= {
        name.replace(f".experts.{last}.", ".experts.3."): tensor
        for name, tensor in tensors.items()
        if f".experts.{last}." in name
    }
    shutil.rmtree(tmp_path / "in")
    save_folder(tmp_path / "in", short, CONFIGS["qwen3_moe"])
    assert f"has {last} experts where config.json has {last + 1}" in quantize(tmp_path / "in", tmp_path / "out", status=2)
    assert not (tmp_path / "out").exists()


def gpt_oss_of_transformers() -> dict[str, mx.array]:
    """Gate and up interleaved in one tensor, rows and columns exchanged."""
    tensors = {}
    for name, tensor in tensors_of(float_model("gpt_oss")).items():
        if ".experts.gate_proj.weight" in name:
            fused = mx.zeros((*tensor.swapaxes(1, 2).shape[:2], 2 * tensor.shape[1]), mx.bfloat16)
            tensors[name.replace("gate_proj.weight", "gate_up_proj")] = fused
        elif ".experts.down_proj.weight" in name:
            tensors[name.removesuffix(".weight")] = mx.contiguous(tensor.swapaxes(1, 2))
        elif ".experts." not in name:
            tensors[name] = tensor
    return tensors


@pytest.mark.parametrize("module", ["gpt_oss", "deepseek_v3", "glm4_moe"])
def test_other_names_of_transformers_are_refused_with_a_remedy(module: str, tmp_path: Path) -> None:
    tensors = (
        gpt_oss_of_transformers() if module == "gpt_oss" else with_a_tensor_per_expert(tensors_of(float_model(module)), module)
    )
    save_folder(tmp_path / "in", tensors, CONFIGS[module], "pt")
    for out in ("out", "out.safetensors"):
        message = quantize(tmp_path / "in", tmp_path / out, status=2)
        assert "`mlx_lm convert --hf-path IN --mlx-path OUT`" in message
        assert "experts" in message
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_model_of_several_shards_loads_and_generates_text(tmp_path: Path) -> None:
    model, tokenizer, config = mlx_lm.load(str(OURS), return_config=True)
    model = dequantize_model(model)
    config = {key: value for key, value in config.items() if not key.startswith("quantization")}
    save_model(tmp_path / "in", model)
    save_config(dict(config), tmp_path / "in" / "config.json")
    tokenizer.save_pretrained(tmp_path / "in")
    (tmp_path / "in" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "in" / "custom.py").write_text("x = 1\n")
    quantize(tmp_path / "in", tmp_path / "out", "--bits", "8", "--max-shard-size", "300KB")
    shards = sorted((tmp_path / "out").glob("model*.safetensors"))
    assert len(shards) > 1
    assert {path.name for path in shards} == {f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    stored = {name: path.name for path in shards for name in mx.load(str(path))}
    assert index["weight_map"] == stored
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for path in shards for tensor in mx.load(str(path)).values())
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "custom.py"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()
    ours, our_tokenizer = mlx_lm.load(str(tmp_path / "out"))
    theirs, _ = quantize_model(model, config, 64, 8)
    text = mlx_lm.generate(ours, our_tokenizer, "ROMEO:", max_tokens=24)
    assert text == mlx_lm.generate(theirs, tokenizer, "ROMEO:", max_tokens=24)
    assert text


def test_settings_of_single_tensors_reach_mlx_lm(tmp_path: Path) -> None:
    save_folder(tmp_path / "in", tensors_of(float_model("qwen3_moe")), CONFIGS["qwen3_moe"])
    quantize(
        tmp_path / "in",
        tmp_path / "out",
        "--mode",
        "mxfp4",
        "--exclude",
        "*q_proj",
        "--per-tensor",
        "*down_proj=8:32:mxfp8",
        "--per-tensor",
        "lm_head.weight=6",
    )
    ours, config = load_model(tmp_path / "out")
    layer = ours.layers[1]
    assert isinstance(layer.self_attn.q_proj, nn.Linear)
    assert (layer.mlp.switch_mlp.down_proj.mode, layer.mlp.switch_mlp.down_proj.bits) == ("mxfp8", 8)
    assert (layer.mlp.switch_mlp.up_proj.mode, layer.mlp.switch_mlp.up_proj.bits) == ("mxfp4", 4)
    assert (ours.lm_head.mode, ours.lm_head.bits, ours.lm_head.group_size) == ("affine", 6, 64)
    assert config["quantization"]["model.layers.1.mlp.gate"] == {"group_size": 64, "bits": 8, "mode": "affine"}
    assert np.isfinite(np.array(ours(TOKENS).astype(mx.float32))).all()


def test_config_keeps_every_value(tmp_path: Path) -> None:
    config = CONFIGS["qwen3_moe"] | {"quantization_config": None, "note": '{"quantization": 1}', "tiny": 1e-05, "text": "é"}
    save_folder(tmp_path / "in", tensors_of(float_model("qwen3_moe")), config)
    quantize(tmp_path / "in", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {key: value for key, value in written.items() if not key.startswith("quantization")} == {
        key: value for key, value in config.items() if not key.startswith("quantization")
    }
    assert written["quantization"]["bits"] == written["quantization_config"]["bits"] == 4
