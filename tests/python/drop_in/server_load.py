"""mlx-lm's server under load, asked by OpenAI's client: each answer must be the one that its request gets alone.

    python server_load.py [MODEL] [--minutes 3]     ./dev soak runs it; the default is the model in models/

Clients ask at the same time, in several forms and lengths. Some disconnect in the middle of an answer, or before its first token.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "models" / "shakespeare-moe-affine4"
CLIENTS = 16
# Fewer places than clients, and chunks shorter than long prompts. So requests wait, join batches in which others are in the
# middle of a prompt, and find parts of their prompts among the caches that the server keeps.
SERVER = ["--decode-concurrency", "10", "--prompt-concurrency", "4", "--prefill-step-size", "96", "--prompt-cache-size", "6"]
START_SECONDS = 120
ANSWER_SECONDS = 120

# glibc gives freed memory back at once, so that the server's resident memory is what it holds.
MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# What it may hold more than after the warm-up: gqmm keeps up to 64 MiB of freed results for the next ones, and the server up to 6
# caches of at most 0.8 MiB. The least that a request could leave behind is a cache of 192 KiB. So 400 answers would show it.
GROWTH = (64 + 6) << 20


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    text: str
    tokens: int
    form: str  # "completion" and "chat" are streamed; "logprobs" is a chat in one piece, with the token's log-probabilities

    def __str__(self) -> str:
        return f"{self.form} of {len(self.text)} characters from {self.text[:20]!r} on, {self.tokens} tokens"

    def arguments(self) -> dict[str, Any]:
        what = {"prompt": self.text} if self.form == "completion" else {"messages": [{"role": "user", "content": self.text}]}
        return {"model": "default_model", "max_tokens": self.tokens, "temperature": 0, **what}


@dataclass(frozen=True)
class Answer:
    """What a client gets."""

    text: str
    reason: str | None
    logprobs: tuple[float, ...] = ()


@dataclass
class Result:
    """What all clients of a load saw."""

    answers: int = 0
    disconnections: int = 0
    cached_tokens: int = 0  # tokens of prompts that the server had in its caches
    failures: list[str] = field(default_factory=list)


def some_requests() -> list[Request]:
    """Return requests whose prompts have 1 to about 500 tokens, and answers 1 to 48."""
    text = (MODEL.parent / "valid.txt").read_text(encoding="utf-8")
    lengths = [2, 9, 30, 75, 140, 260, 520, 1100]  # in characters, of which a token has about two
    forms = ["completion", "chat", "logprobs"]
    chance = random.Random(5)
    return [
        Request(text[start : start + length], chance.choice([1, 5, 16, 48]), forms[i % len(forms)])
        for i, (length, start) in enumerate((length, chance.randrange(len(text) - 1100)) for length in lengths * 3)
    ]


class Server:
    """mlx-lm's server on a free port, in a process of its own."""

    def __init__(self, model: Path, log: Path, options: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        command = [sys.executable, "-m", "gqmm.mlx", "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port)]
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [*command, *SERVER, *options], env=os.environ | MEMORY, stdout=output, stderr=subprocess.STDOUT
            )

    def wait(self) -> None:
        """Return when the server answers."""
        end = time.monotonic() + START_SECONDS
        while not self.healthy():
            assert self._process.poll() is None, f"the server ended: {self.log()}"
            assert time.monotonic() < end, f"the server does not answer after {START_SECONDS} s: {self.log()}"
            time.sleep(0.1)

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=10) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def errors(self) -> list[str]:
        """Return the exceptions and errors in the log, but those of writing to clients that have disconnected."""
        lines = re.findall(r"^(?:[A-Za-z_.]*(?:Error|Exception)(?::.*)?|.* - (?:ERROR|CRITICAL) - .*)$", self.log(), re.MULTILINE)
        return [line for line in lines if not line.startswith(("BrokenPipeError", "ConnectionResetError"))]

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(re.search(r"^VmRSS:\s*(\d+) kB$", status, re.MULTILINE)[1])

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def serving(model: Path, *options: str) -> Iterator[Server]:
    """Run the server; `options` are further ones of its own."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(model, Path(folder) / "log.txt", list(options))
        try:
            server.wait()
            yield server
        finally:
            server.stop()


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=ANSWER_SECONDS)


def pieces(client: openai.OpenAI, request: Request) -> tuple[Any, Iterator[tuple[str, str | None]]]:
    """Ask for a stream. Return it, and its pieces: text, and the reason of the last one."""
    if request.form == "completion":
        stream = client.completions.create(**request.arguments(), stream=True)
        return stream, ((choice.text, choice.finish_reason) for chunk in stream for choice in chunk.choices)
    chat = client.chat.completions.create(**request.arguments(), stream=True)
    return chat, ((choice.delta.content or "", choice.finish_reason) for chunk in chat for choice in chunk.choices)


def ask(client: openai.OpenAI, request: Request, result: Result) -> Answer:
    if request.form != "logprobs":
        texts, reasons = zip(*pieces(client, request)[1], strict=True)
        return Answer("".join(texts), reasons[-1])
    response = client.chat.completions.create(**request.arguments(), logprobs=True)
    result.cached_tokens += response.usage.prompt_tokens_details.cached_tokens
    choice = response.choices[0]
    logprobs = tuple(token.logprob for token in choice.logprobs.content)
    return Answer(choice.message.content or "", choice.finish_reason, logprobs)


def ask_and_disconnect(client: openai.OpenAI, request: Request, count: int) -> str:
    """Return the text of the first `count` pieces, after which the client is gone."""
    stream, all_pieces = pieces(client, request)
    with stream:
        return "".join(text for _, (text, _) in zip(range(count), all_pieces, strict=False))


def answers_alone(server: Server, requests: list[Request]) -> dict[Request, Answer]:
    """Ask one request after the other."""
    client = client_of(server)
    return {request: ask(client, request, Result()) for request in requests}


def load(server: Server, alone: dict[Request, Answer], seconds: float, seed: int = 0) -> Result:
    """Let the clients ask at the same time, and compare what they get with the answers alone."""
    result, lock = Result(), threading.Lock()
    end = time.monotonic() + seconds

    def one_client(number: int) -> None:
        client, chance = client_of(server), random.Random(1000 * seed + number)
        while time.monotonic() < end:
            request = chance.choice(list(alone))
            seen = Result()
            try:
                if request.form != "logprobs" and chance.random() < 0.3:
                    text = ask_and_disconnect(client, request, chance.randrange(6))
                    seen.disconnections += 1
                    same = alone[request].text.startswith(text)
                    found: object = text
                else:
                    found = ask(client, request, seen)
                    seen.answers += 1
                    same = found == alone[request]
                if not same:
                    seen.failures.append(f"{request}:\n  {found!r}\n  instead of\n  {alone[request]!r}")
            except Exception as error:  # of any kind: the caller says what a client met
                seen.failures.append(f"{request}: {type(error).__name__}: {error}")
            with lock:
                result.answers += seen.answers
                result.disconnections += seen.disconnections
                result.cached_tokens += seen.cached_tokens
                result.failures += seen.failures

    clients = [threading.Thread(target=one_client, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return result


def check(server: Server, result: Result) -> None:
    """Assert that a load went as it should."""
    assert not result.failures, f"{len(result.failures)} of {result.answers} answers:\n" + "\n".join(result.failures[:5])
    assert result.answers > CLIENTS, f"{result.answers} answers of {CLIENTS} clients"
    assert result.disconnections > 0, "nobody disconnected"
    assert result.cached_tokens > 0, "no prompt was found in the server's caches"
    assert server.errors() == [], server.log()[-4000:]
    assert server.healthy(), server.log()[-4000:]


def run(model: Path, warm_up_seconds: float, seconds: float, *options: str) -> tuple[Result, int]:
    """Return what the clients saw after the warm-up, and by how many bytes the server grew then."""
    with serving(model, *options) as server:
        alone = answers_alone(server, some_requests())
        check(server, load(server, alone, warm_up_seconds, seed=1))
        before = server.resident_bytes()
        result = load(server, alone, seconds, seed=2)
        check(server, result)
        return result, server.resident_bytes() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL, help="a folder of a checkpoint")
    parser.add_argument("--minutes", type=float, default=3, help="how long clients ask")
    options = parser.parse_args()
    seconds = 60 * options.minutes
    result, growth = run(options.model, seconds / 4, 3 * seconds / 4)
    print(f"{result.answers} answers, {result.disconnections} disconnections, {growth / 2**20:+.1f} MiB")
    assert growth <= GROWTH, f"the server grew by {growth} bytes, more than {GROWTH}"


if __name__ == "__main__":
    main()
