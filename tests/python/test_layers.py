"""The check of `./dev lint` that layers include only what they may."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TABLE = """# Architecture

## What may include what

| folder | may include |
|---|---|
| `include/gqmm` | nothing else |
| `src/low` | nothing else |
| `src/high` | `src/low` |
| `cli` | `src/high` |

## Something else

| `src/low` | `src/high` |
"""


@pytest.fixture
def check(tmp_path):
    def run(**files: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "docs/dev").mkdir(parents=True)
        (tmp_path / "docs/dev/architecture.md").write_text(TABLE)
        for name, text in {"include__gqmm__a_hpp": "", "src__low__low_hpp": "", "src__high__high_hpp": "", **files}.items():
            path = tmp_path / (name.replace("__", "/").removesuffix("_hpp").removesuffix("_cpp") + "." + name[-3:])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return subprocess.run(
            [sys.executable, ROOT / "src/check_layers.py", tmp_path], capture_output=True, text=True, check=False
        )

    return run


def test_includes_that_the_table_allows_pass(check):
    result = check(
        src__high__b_cpp='#include "high/high.hpp"\n#include "low/low.hpp"\n#include <gqmm/a.hpp>\n#include <vector>\n',
        cli__sub__main_cpp='#include "high/high.hpp"\n',
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_an_include_of_a_higher_layer_is_named_with_its_line(check):
    result = check(src__low__low_cpp='#include "low/low.hpp"\n#include "high/high.hpp"\n')
    assert result.returncode == 1
    assert "src/low/low.cpp:2: src/low may not include src/high/high.hpp" in result.stdout


def test_a_public_header_may_not_include_the_library(check):
    result = check(include__gqmm__b_hpp='#include "low/low.hpp"\n')
    assert result.returncode == 1
    assert "include/gqmm/b.hpp:1: include/gqmm may not include src/low/low.hpp" in result.stdout


def test_a_folder_that_the_table_lacks_is_named(check):
    result = check(src__new__a_cpp="")
    assert result.returncode == 1
    assert "src/new/a.cpp: its folder is not in the table" in result.stdout


def test_the_sources_of_this_repository_keep_to_the_table():
    result = subprocess.run([sys.executable, ROOT / "src/check_layers.py", ROOT], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")
