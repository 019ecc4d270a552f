"""Whole models by llama.cpp, through the C interface of the library in llama-cpp-python."""

from __future__ import annotations

import ctypes
import random
import tempfile
import time
from typing import Any

from .gguf_file import write_gguf
from .llama_files import ARCHITECTURES, settings_of, tensors_of
from .peer import missing

TURN_SECONDS = 0.3  # as in bench/mlx_lm/jobs.py
BATCH = 512  # llama.cpp's own number of tokens that are computed together
MOST_STEPS = 512  # decoding steps of a turn, for which the context has room


class WholeModel:
    """A model of random weights with a context for the case that is measured. The shape is that of bench/mlx_lm."""

    def __init__(self, shape: dict[str, Any], threads: int) -> None:
        if missing("llama_cpp"):
            raise ImportError("llama-cpp-python is not installed; `./dev peers` installs it")
        import llama_cpp

        if shape["family"] not in ARCHITECTURES:
            raise ValueError(f"no file is made of the tensors that llama.cpp has for {shape['name']}")
        self.api, self.shape, self.threads = llama_cpp, shape, threads
        self.random = random.Random(1)
        self.version = str(llama_cpp.__version__)
        self.last_line = "it says nothing"
        self.quiet = llama_cpp.llama_log_callback(self.keep_line)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        tensors = tensors_of(shape)
        self.formats = " and ".join(sorted({tensor.kind for tensor in tensors if tensor.kind != "float32"}))
        with tempfile.TemporaryFile() as file:  # it has no name, so nothing is left behind if this process ends
            write_gguf(file, settings_of(shape), tensors)
            path = f"/proc/self/fd/{file.fileno()}"
            self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {shape['name']} ({self.last_line}); `./dev peers` installs a newer one")
        self.context: Any = None
        self.job, self.tokens, self.requests = "", 0, 0

    def keep_line(self, _level: int, line: bytes, _data: Any) -> None:
        """Keep the last line of the log, for errors."""
        self.last_line = line.decode(errors="replace").strip() or self.last_line

    def free_context(self) -> None:
        if self.context:
            self.api.llama_free(self.context)
            self.context = None

    def close(self) -> None:
        self.free_context()
        self.api.llama_model_free(self.model)

    def set_up(self, case: dict[str, Any]) -> None:
        """Make a context for the case, and fill its cache if the case decodes."""
        self.free_context()
        self.job, self.tokens, self.requests = case["job"], case["tokens"], case["requests"]
        settings = self.api.llama_context_default_params()
        settings.n_ctx = self.requests * (self.tokens + MOST_STEPS)
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_seq_max = self.requests
        settings.n_threads = settings.n_threads_batch = self.threads
        settings.flash_attn_type = 1  # LLAMA_FLASH_ATTN_TYPE_ENABLED
        settings.no_perf = True
        self.context = self.api.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError(f"llama.cpp has no context of {settings.n_ctx} tokens")
        if self.job == "decode":
            for request in range(self.requests):
                self.prompt(request)

    def evaluate(self, places: list[tuple[int, int]], with_logits: set[int]) -> None:
        """Evaluate random tokens at places: a position of a request. `with_logits`: which of them get logits."""
        batch = self.api.llama_batch_init(len(places), 0, 1)
        batch.n_tokens = len(places)
        for i, (position, request) in enumerate(places):
            batch.token[i], batch.pos[i] = self.random.randrange(self.shape["vocabulary"]), position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, request
            batch.logits[i] = i in with_logits
        status = self.api.llama_decode(self.context, batch)
        self.api.llama_synchronize(self.context)
        self.api.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode of {len(places)} tokens failed with status {status}")

    def prompt(self, request: int = 0) -> None:
        for first in range(0, self.tokens, BATCH):
            end = min(first + BATCH, self.tokens)
            self.evaluate(
                [(position, request) for position in range(first, end)], {end - first - 1} if end == self.tokens else set()
            )

    def step(self, number: int) -> None:
        self.evaluate([(self.tokens + number, request) for request in range(self.requests)], set(range(self.requests)))

    def forget(self, first: int) -> None:
        """Remove what the caches have from this position on."""
        memory = self.api.llama_get_memory(self.context)
        for request in range(self.requests):
            self.api.llama_memory_seq_rm(memory, request, first, -1)

    def call(self, number: int) -> None:
        if self.job == "prompt":
            self.forget(0)
            self.prompt()
        else:
            self.step(number)

    def run(self) -> float:
        """Return the seconds of a call, as the mean over a turn. A short call is made once before, as on the other sides."""
        start = time.perf_counter()
        self.call(0)
        seconds = time.perf_counter() - start
        if seconds < TURN_SECONDS:
            count, start = 0, time.perf_counter()
            while count == 0 or (time.perf_counter() - start < TURN_SECONDS and count + 2 < MOST_STEPS):
                self.call(count + 1)
                count += 1
            seconds = (time.perf_counter() - start) / count
        self.forget(self.tokens if self.job == "decode" else 0)
        return seconds
