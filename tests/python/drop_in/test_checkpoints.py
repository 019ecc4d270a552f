"""mlx-lm on real checkpoints: with the drop-in it says what it says on stock MLX.

The checkpoint in models/ is always tested; others are those under the folder that GQMM_TEST_MODELS names.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

import gqmm.mlx as drop_in
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import mlx_lm
from mlx.utils import tree_flatten
from mlx_lm.generate import BatchGenerator, batch_generate
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache, trim_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm.sample_utils import make_logits_processors, make_sampler
from mlx_lm.tuner.datasets import CacheDataset, TextDataset
from mlx_lm.tuner.lora import LoRASwitchLinear
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm_support import OURS, ROOT, assert_close, both, checkpoints, evaluated, ours, stock
from tokenizers import Tokenizer

from demo import WINDOW, published_loss, validation_tokens  # isort: skip

pytestmark = pytest.mark.mlx

QMM = ("gather_qmm", "quantized_matmul")  # the products of these models: the experts', and all others

# Float32's rounding in the matrices that a token passes is 6·√2·2⁻²⁴·√(ΣK/6) of the logits' root mean square, as
# mlx_lm_support.py derives it. That mean is 4.3 in these models. ΣK = 3·(7·256 + 128) + 256, and so it is 7e-5.
LOGITS = 1e-4


@dataclass
class Answer:
    tokens: list[int]
    logprobs: np.ndarray  # of every word of the vocabulary, or of the chosen one alone, for each token
    text: str = ""

    def assert_is(self, expected: Answer) -> None:
        assert self.tokens == expected.tokens
        assert self.text == expected.text
        assert_close(self.logprobs, expected.logprobs, LOGITS)


@dataclass
class Checkpoint:
    folder: Path
    model: Any  # all parameters float32
    tokenizer: Any
    tokens: list[int]  # of valid.txt

    def answer(self, prompt: list[int], max_tokens: int, **settings: Any) -> Answer:
        """What stream_generate says. Without a sampler, it is greedy."""
        responses = list(mlx_lm.stream_generate(self.model, self.tokenizer, prompt, max_tokens, **settings))
        logprobs = evaluated(mx.stack([response.logprobs for response in responses]))
        return Answer([response.token for response in responses], logprobs, "".join(response.text for response in responses))


def load(folder: Path, dtype: mx.Dtype = mx.float32) -> Checkpoint:
    model, tokenizer = mlx_lm.load(str(folder))
    model.set_dtype(dtype)
    mx.eval(model.parameters())
    tokens = validation_tokens(folder, Tokenizer.from_file(str(folder / "tokenizer.json")))
    return Checkpoint(folder, model, tokenizer, tokens)


@pytest.fixture(scope="module", params=checkpoints())
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return load(request.param)


@pytest.fixture(scope="module")
def greedy(checkpoint: Checkpoint) -> Answer:
    """On stock MLX, 200 tokens after a prompt of 64: the cache grows beyond its first 256 places."""
    with stock():
        return checkpoint.answer(checkpoint.tokens[:64], 200)


@pytest.mark.parametrize("pack", [False, True], ids=["", "pack"])
def test_200_greedy_tokens_and_their_logits_are_those_of_stock(checkpoint: Checkpoint, greedy: Answer, pack: bool) -> None:
    with ours(*QMM, pack=pack):
        answer = checkpoint.answer(checkpoint.tokens[:64], 200)
    assert len(answer.tokens) == 200
    answer.assert_is(greedy)


def test_a_packed_model_generates_the_same_tokens_and_is_saved_as_it_was(tmp_path: Path) -> None:
    checkpoint = load(OURS)
    prompt = checkpoint.tokens[:64]
    parameters = {name: evaluated(a) for name, a in tree_flatten(checkpoint.model.parameters())}
    with ours(*QMM):
        in_place = checkpoint.answer(prompt, 50)
        report = drop_in.pack_model(checkpoint.model)
        packed = checkpoint.answer(prompt, 50)
    assert packed.tokens == in_place.tokens
    assert np.array_equal(packed.logprobs, in_place.logprobs)
    assert any(name.endswith("switch_mlp.up_proj") for name in report.packed)
    assert any(name.endswith("self_attn.q_proj") for name in report.packed)
    assert set(report.left.values()) <= {"its rows are looked up one by one"}
    checkpoint.model.save_weights(str(tmp_path / "model.safetensors"))
    saved = {name: evaluated(a) for name, a in mx.load(str(tmp_path / "model.safetensors")).items()}
    assert saved.keys() == parameters.keys()
    assert all(np.array_equal(saved[name], parameters[name]) for name in saved)


@pytest.mark.parametrize("pack", [False, True], ids=["", "pack"])
def test_logits_of_a_batch_of_prompts_are_those_of_stock(checkpoint: Checkpoint, pack: bool) -> None:
    prompts = mx.array(checkpoint.tokens[:96]).reshape(2, 48)
    with stock():
        expected = evaluated(checkpoint.model(prompts))
    with ours(*QMM, pack=pack):
        for _ in range(3):  # weights are packed when they are used for the second time
            assert_close(evaluated(checkpoint.model(prompts)), expected, LOGITS)


@pytest.mark.parametrize("part", ["weight", "scales", "biases"])
@pytest.mark.parametrize("in_place", [False, True], ids=["assigned", "in place"])
def test_packed_weights_are_those_that_the_model_has_now(part: str, in_place: bool) -> None:
    """As after loading other weights: those of the experts in the opposite order."""
    model = load(OURS).model
    layer, prompt = model.layers[1].mlp.switch_mlp.up_proj, mx.array([[12, 5, 7]])
    before, after = mx.array(layer[part]), layer[part][::-1]
    mx.eval(before, after)

    def logits() -> np.ndarray:
        """Of the weights as they are, which are packed then, and of the others."""
        layer[part] = mx.array(before)
        results = [evaluated(model(prompt)) for _ in range(3)]
        if in_place:
            layer[part][:] = after
        else:
            layer[part] = after
        return np.stack([*results, *(evaluated(model(prompt)) for _ in range(3))])

    theirs, mine = both(logits, *QMM, pack=True)
    assert np.abs(theirs[3] - theirs[2]).max() > 100 * LOGITS, "the change should matter"
    assert_close(mine, theirs, LOGITS)


@pytest.mark.parametrize("length", [1, 5, 48])
def test_bfloat16_logits_are_closer_to_float32_than_those_of_stock(checkpoint: Checkpoint, length: int) -> None:
    rounded = load(checkpoint.folder, mx.bfloat16).model
    prompt = mx.array(checkpoint.tokens[:length])[None]
    theirs, mine = both(lambda: evaluated(rounded(prompt)), *QMM)
    # The same parameters, which bfloat16 has rounded, so that only the arithmetic differs.
    rounded.set_dtype(mx.float32)
    with stock():
        exact = evaluated(rounded(prompt))

    def error(logits: np.ndarray) -> float:
        return float(np.sqrt(np.mean((logits - exact) ** 2)))

    assert error(mine) < error(theirs)


def test_the_loss_is_the_published_one(checkpoint: Checkpoint) -> None:
    published = published_loss(checkpoint.folder)
    assert published is not None, f"no loss for {checkpoint.folder.name} in {checkpoint.folder.parent / 'README.md'}"
    tokens = np.array(checkpoint.tokens)
    losses = []
    with ours(*QMM):
        for start in range(0, len(tokens) - 1, WINDOW):
            window, targets = tokens[start : start + WINDOW], tokens[start + 1 : start + WINDOW + 1]
            logits = evaluated(checkpoint.model(mx.array(window)[None]))[0].astype(np.float64)
            losses.append(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(targets)), targets])
    assert sum(map(len, losses)) == 2048
    assert np.concatenate(losses).mean() == pytest.approx(published, rel=0, abs=1e-3)


def test_sampled_text_is_that_of_stock(checkpoint: Checkpoint) -> None:
    """generate, with the prompt in chunks, and with samplers and processors that read all the probabilities."""

    def text() -> str:
        mx.random.seed(5)
        return mlx_lm.generate(
            checkpoint.model,
            checkpoint.tokenizer,
            "ROMEO:\nWhat light is this that",
            max_tokens=40,
            prefill_step_size=4,
            sampler=make_sampler(temp=0.8, top_p=0.9, min_p=0.01),
            logits_processors=make_logits_processors(repetition_penalty=1.2),
        )

    theirs, mine = both(text, *QMM)
    assert len(mine) > 40
    assert mine == theirs


def test_speculative_decoding_is_that_of_stock(checkpoint: Checkpoint) -> None:
    """Drafts come from the same model, which should accept them: three of every four tokens."""
    settings = {"draft_model": checkpoint.model, "num_draft_tokens": 3}
    theirs, mine = both(lambda: checkpoint.answer(checkpoint.tokens[:12], 20, **settings), *QMM)
    assert len(mine.tokens) == 20
    mine.assert_is(theirs)


def test_batch_generate_is_that_of_stock(checkpoint: Checkpoint) -> None:
    """Prompts of different lengths, and answers too, so that the batch is padded, filtered and shrinks."""
    prompts = [checkpoint.tokens[300:303], checkpoint.tokens[400:431], checkpoint.tokens[500:512]]

    def answers() -> list[Answer]:
        settings = {"max_tokens": [24, 5, 12], "return_token_ids": True, "return_logprobs": True}
        response = batch_generate(checkpoint.model, checkpoint.tokenizer, prompts, **settings)
        parts = zip(response.token_ids, response.logprobs, response.texts, strict=True)
        return [Answer(tokens, np.array(logprobs), text) for tokens, logprobs, text in parts]

    theirs, mine = both(answers, *QMM)
    assert [len(answer.tokens) for answer in mine] == [24, 5, 12]
    for answer, of_stock in zip(mine, theirs, strict=True):
        answer.assert_is(of_stock)


def test_a_batch_that_prompts_join_later_is_that_of_stock(checkpoint: Checkpoint) -> None:
    def answers() -> list[Answer]:
        generator = BatchGenerator(checkpoint.model, max_tokens=10, prefill_step_size=8)
        late = [checkpoint.tokens[500:520], checkpoint.tokens[600:602]]
        said: dict[int, list[tuple[int, np.ndarray]]] = {uid: [] for uid in generator.insert([checkpoint.tokens[400:405]])}
        while responses := generator.next_generated():
            for response in responses:
                said[response.uid].append((response.token, evaluated(response.logprobs)))
            if late and len(said[0]) == 4:
                said |= {uid: [] for uid in generator.insert(late)}
                late = []
        generator.close()
        return [Answer([token for token, _ in each], np.stack([logprobs for _, logprobs in each])) for each in said.values()]

    theirs, mine = both(answers, *QMM)
    assert [len(answer.tokens) for answer in mine] == [10, 10, 10]
    for answer, of_stock in zip(mine, theirs, strict=True):
        answer.assert_is(of_stock)


@pytest.mark.parametrize(("bits", "start"), [(8, 0), (4, 0), (8, 25), (4, 25)])
def test_tokens_with_a_quantized_cache_are_those_of_stock(checkpoint: Checkpoint, bits: int, start: int) -> None:
    """From the first token on, and from the middle of the answer on. The heads are 32 wide, and so are the groups."""
    settings = {"kv_bits": bits, "kv_group_size": 32, "quantized_kv_start": start}
    theirs, mine = both(lambda: checkpoint.answer(checkpoint.tokens[700:716], 20, **settings), *QMM)
    assert len(mine.tokens) == 20
    assert mine.tokens == theirs.tokens


@pytest.mark.parametrize("bits", [8, 4])
def test_logits_with_a_quantized_cache_are_those_of_stock(checkpoint: Checkpoint, bits: int) -> None:
    """Both sides go on from one cache, which stock made."""
    model, tokens = checkpoint.model, checkpoint.tokens[700:748]
    with stock():
        cache = make_prompt_cache(model)
        mx.eval(model(mx.array(tokens[:20])[None], cache))
        quantized = [layer.to_quantized(group_size=32, bits=bits) for layer in cache]

    def logits(cache: list[Any]) -> list[np.ndarray]:
        """Of many tokens at once, which need a mask, and of single ones, each as if it followed the prompt."""
        results = []
        for piece in [tokens[20:40], *([token] for token in tokens[40:])]:
            results.append(evaluated(model(mx.array(piece)[None], cache)))
            assert trim_prompt_cache(cache, len(piece)) == len(piece)
        return results

    theirs, mine = both(lambda: logits(quantized), *QMM)
    with stock():
        unquantized = logits(cache)
    # Where a new key or value lies halfway between two codes, float32's rounding decides which one it gets, and a step of one
    # code moves logits beyond LOGITS. For one token that is rare, and far less than what it is to quantize all keys and values.
    errors = [np.abs(a - b).max() for a, b in zip(mine, theirs, strict=True)]
    assert np.median(errors[1:]) <= LOGITS, errors
    for a, b, c in zip(mine, theirs, unquantized, strict=True):
        assert_close(a, b, np.abs(c - b).max() / 10)


def test_a_prompt_cache_is_saved_loaded_trimmed_and_used_again(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = checkpoint.model
    prompt, question = checkpoint.tokens[800:820], checkpoint.tokens[900:910]

    def conversation() -> dict[str, Answer]:
        file, cache = str(tmp_path / "cache.safetensors"), make_prompt_cache(model)
        answers = {"first": checkpoint.answer(prompt, 8, prompt_cache=cache)}
        save_prompt_cache(file, cache)
        answers["in memory"] = checkpoint.answer(question, 10, prompt_cache=cache)
        answers["loaded"] = checkpoint.answer(question, 10, prompt_cache=load_prompt_cache(file))
        trimmed = load_prompt_cache(file)
        surplus = trimmed[0].offset - len(prompt)
        assert trim_prompt_cache(trimmed, surplus) == surplus
        answers["trimmed"] = checkpoint.answer(question, 10, prompt_cache=trimmed)
        answers["afresh"] = checkpoint.answer(prompt + question, 10)
        return answers

    theirs, mine = both(conversation, *QMM)
    for name, answer in mine.items():
        answer.assert_is(theirs[name])
    np.testing.assert_array_equal(mine["loaded"].logprobs, mine["in memory"].logprobs)
    mine["trimmed"].assert_is(mine["afresh"])
    assert np.abs(mine["trimmed"].logprobs - mine["loaded"].logprobs).max() > 100 * LOGITS, "the first answer should matter"


def adapted(rank: int = 8) -> Checkpoint:
    """With low-rank adapters on every linear layer, the experts' too."""
    checkpoint = load(OURS)
    model = checkpoint.model
    model.freeze()
    mx.random.seed(11)
    linear_to_lora_layers(model, len(model.layers), {"rank": rank, "scale": 20.0, "dropout": 0.0})
    experts = [module for _, module in model.named_modules() if isinstance(module, LoRASwitchLinear)]
    assert len(experts) == 3 * len(model.layers)
    assert all(isinstance(module.linear, QuantizedSwitchLinear) for module in experts)
    return checkpoint


def test_gradients_of_adapters_are_those_of_stock() -> None:
    checkpoint = adapted()
    # Adapters start at zero, where half of the gradients are zero too.
    checkpoint.model.apply_to_modules(
        lambda _, module: module.update({"lora_b": 0.01 * mx.random.normal(module.lora_b.shape)}) if "lora_b" in module else None
    )
    batch, lengths = mx.array(checkpoint.tokens[:34]).reshape(2, 17), mx.array([[0, 17], [0, 12]])

    def gradients() -> dict[str, np.ndarray]:
        checkpoint.model.train()
        _, tree = nn.value_and_grad(checkpoint.model, default_loss)(checkpoint.model, batch, lengths)
        return {name: evaluated(gradient) for name, gradient in tree_flatten(tree)}

    theirs, mine = both(gradients, *QMM, "gather_mm")
    assert len(mine) == len(checkpoint.model.layers) * 2 * (4 + 1 + 3)
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        # Float32's rounding on the way there and back, in sums of 12,000 terms, is 2⁻²⁴·√(12000/6) = 3e-6 of a gradient in the
        # root mean square. On stock MLX, noise of 2⁻²² on each element of each product moves the worst element of any gradient by
        # 6e-6 of the gradient's largest, noise of 2⁻¹⁴ by 4e-4, and noise of 2⁻⁹, as of bfloat16, by 2e-2.
        largest = np.abs(theirs[name]).max()
        assert largest > 0, name
        assert_close(gradient / largest, theirs[name] / largest, 6 * 3e-6)


STEPS = 20

# How far two runs' losses may be apart. On stock MLX, noise of 2⁻²⁰ on each element of each product, which is more than float32's
# rounding, moves the first losses by up to 2e-5. Some day it makes a token change its expert, who has learned something else: the
# losses from there on move by up to 2e-3. Noise of 2⁻⁹, as of bfloat16, moves them by 2e-2. The losses themselves fall by 5.
FIRST_FIVE, LATER = 1e-4, 4e-3


def test_lora_training_goes_as_on_stock(tmp_path: Path) -> None:
    """The trainer of mlx-lm, which compiles its steps."""
    text = (OURS.parent / "valid.txt").read_text(encoding="utf-8")

    def losses() -> np.ndarray:
        checkpoint = adapted()
        # Short enough to be used whole, and of different lengths, so that a part of the batch is masked.
        lines = [line for line in text.splitlines() if 8 <= len(checkpoint.tokenizer.encode(line)) <= 16]
        reports: list[float] = []
        train(
            checkpoint.model,
            optimizers.Adam(learning_rate=5e-5),
            CacheDataset(TextDataset([{"text": line} for line in lines[:2]], checkpoint.tokenizer)),
            args=TrainingArgs(
                batch_size=2,
                iters=STEPS,
                steps_per_report=1,
                max_seq_length=17,
                adapter_file=str(tmp_path / "adapters.safetensors"),
            ),
            training_callback=SimpleNamespace(on_train_loss_report=lambda report: reports.append(report["train_loss"])),
        )
        return np.array(reports)

    theirs, mine = both(losses, *QMM, "gather_mm")
    assert len(mine) == STEPS
    assert_close(mine[:5], theirs[:5], FIRST_FIVE)
    assert_close(mine, theirs, LATER)
    assert mine[-1] < mine[0] - 3


@pytest.fixture(scope="module")
def float32_copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A checkpoint whose scales are float32, so that mlx-lm computes in float32, and what stock makes of a prompt."""
    folder, model = tmp_path_factory.mktemp("float32"), load(OURS)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.model.parameters())))
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(OURS / file, folder / file)
    with stock():
        return folder, mlx_lm.generate(model.model, model.tokenizer, "ROMEO:", max_tokens=20)


def run_mlx_lm(options: list[str], model: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gqmm.mlx", *options, "-m", "mlx_lm", "generate", "--model", str(model)]
    command += ["--prompt", "ROMEO:", "--max-tokens", "20", "--temp", "0"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.mark.parametrize("options", [["--status"], ["--status", "--pack"]], ids=["", "pack"])
def test_the_program_writes_what_stock_writes(float32_copy: tuple[Path, str], options: list[str]) -> None:
    folder, text = float32_copy
    result = run_mlx_lm(options, folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("=" * 10 + "\n")[1] == text + "\n"
    for product in QMM:
        assert re.search(rf"^ *{product}: [1-9]\d* calls of gqmm's, 0 of MLX's$", result.stderr, re.MULTILINE), result.stderr


def test_the_program_runs_the_checkpoint_as_it_is() -> None:
    """In bfloat16, where the text may differ from stock's."""
    result = run_mlx_lm([], Path("models/shakespeare-moe-affine4"))
    assert result.returncode == 0, result.stderr
    assert "Generation: 20 tokens" in result.stdout
    assert result.stderr == ""
