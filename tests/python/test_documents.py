"""README and guides: their Python examples run and print what they say, their commands exist, and no variable is left out."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from rank_processes import without_ranks

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "guide").glob("*.md"))]
FENCE = re.compile(r"^```python ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODULE_OF = {"": "numpy", "jax": "jax", "mlx": "mlx.core", "mpi": "mpi4py", "torch": "torch"}


def examples(page: str) -> list[tuple[str, str]]:
    """The library that each Python block of a page needs, and the block."""
    return FENCE.findall((ROOT / page).read_text(encoding="utf-8"))


WITH_EXAMPLES = [(page, library) for page in PAGES for library in sorted({library for library, _ in examples(page)})]


def test_the_pages_that_promise_examples_have_them():
    assert ("README.md", "") in WITH_EXAMPLES
    assert ("docs/guide/python.md", "") in WITH_EXAMPLES
    assert ("docs/guide/mlx.md", "mlx") in WITH_EXAMPLES


@pytest.mark.parametrize(("page", "library"), WITH_EXAMPLES)
def test_the_examples_of_a_page_run_and_print_what_they_say(page, library, tmp_path):
    pytest.importorskip(MODULE_OF[library])
    # Blocks build on the ones before them, but not on those of another library.
    program = "\n".join(block for needs, block in examples(page) if needs in ("", library))
    promised = re.findall(r"^ *print\(.*\)  # (.+)$", program, re.MULTILINE)
    assert promised, f"no print in the blocks of {page} says what it prints"
    assert len(promised) == len(re.findall(r"^ *print\(", program, re.MULTILINE)), "a print does not say what it prints"

    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=without_ranks(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == promised


COMMAND = re.compile(r"gqmm (info|inspect|check|quantize|bench mlx-lm|bench)\b([^`\n]*)")


@pytest.mark.parametrize("page", PAGES)
def test_the_options_of_commands_exist(page):
    commands = COMMAND.findall((ROOT / page).read_text(encoding="utf-8"))
    for command, rest in commands:
        options = set(re.findall(r"(?<!\S)--[a-z-]+", rest))
        if not options:
            continue
        result = subprocess.run(
            [sys.executable, "-m", "gqmm", *command.split(), "--help"], capture_output=True, text=True, timeout=60, check=True
        )
        unknown = options - set(re.findall(r"--[a-z-]+", result.stdout))
        assert not unknown, f"{page}: gqmm {command} has no {', '.join(sorted(unknown))}"


def test_every_environment_variable_is_documented():
    # What is read from the environment, and every name of ours in quotes.
    read = re.compile(r"""(?:getenv\(|environ\.get\(|\bENV\{)\s*["']?(\w+)|["'](GQMM_[A-Z_]+)["']""")
    sources = [
        path
        for folder in ("bench", "cli", "cmake", "python", "src", "tests", "examples")
        for pattern in ("*.cpp", "*.hpp", "*.py", "*.cmake")
        for path in (ROOT / folder).rglob(pattern)
    ]
    found = {found[1] or found[2] for path in sources for found in read.finditer(path.read_text(encoding="utf-8"))}
    variables = {name for name in found if name.isupper()} - {"VARIABLE", "PYTHONPATH", "XLA_FLAGS"}  # what tests pass on
    assert {"GQMM_ISA", "GQMM_NUM_THREADS", "OMP_NUM_THREADS", "GQMM_TEST_MODELS"} <= variables
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    missing = {name for name in variables if f"`{name}`" not in page}
    assert not missing, f"docs/reference/environment.md lacks {', '.join(sorted(missing))}"


FOLDER = "docs"  # apart from the names of pages, which the check would look for in this repository


class TestLinks:
    """docs/check_links.py, in repositories made for it."""

    @pytest.fixture
    def check(self, tmp_path):
        def run(**files: str) -> subprocess.CompletedProcess[str]:
            subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
            for name, text in files.items():
                path = tmp_path / name.replace("__", "/").replace("_md", ".md").replace("_cpp", ".cpp")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            program = [sys.executable, str(ROOT / "docs" / "check_links.py"), str(tmp_path)]
            return subprocess.run(program, capture_output=True, text=True, timeout=60, env=os.environ)

        pytest.importorskip("markdown_it")
        return run

    def test_links_that_lead_somewhere_pass(self, check):
        result = check(
            README_md=f"[a]({FOLDER}/a.md#two-words-again) ![]({FOLDER}/a.md) [web](https://x.org) `src/a.cpp` `src/new…`\n",
            docs__a_md="# Top\n\n## Two words: `again`\n\n[up](../README.md) [here](#top)\n",
            src__a_cpp=f"// {FOLDER}/a.md#top\n",
        )
        assert result.returncode == 0, result.stdout

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[a](b.md)", "README.md:1: b.md: there is no b.md"),
            ("\n[a](#nowhere)", "README.md:2: #nowhere: README.md has no heading #nowhere"),
            ("![picture](p.svg)", "README.md:1: p.svg: there is no p.svg"),
            ("[out](../../x)", "README.md:1: ../../x leads out of the repository"),
            ("`src/gone.cpp`", "README.md:1: there is no src/gone.cpp"),
            (f"see {FOLDER}/gone.md", f"README.md:1: there is no {FOLDER}/gone.md"),
        ],
    )
    def test_a_link_that_leads_nowhere_is_named_with_its_place(self, check, text, message):
        result = check(README_md=text)
        assert result.returncode == 1
        assert message in result.stdout

    def test_a_source_that_names_a_missing_document_is_named(self, check):
        result = check(README_md="# Top\n", src__a_cpp=f"\n// {FOLDER}/old.md says more\n")
        assert result.returncode == 1
        assert f"src/a.cpp:2: there is no {FOLDER}/old.md" in result.stdout

    def test_links_in_code_are_text(self, check):
        assert check(README_md="```\n[a](b.md)\n```\n\n`[a](b.md)`\n").returncode == 0
