"""How Sphinx renders the documents: `./dev docs` runs it.

The source folder is the root of the repository, so that README, CHANGELOG and the committed reports are pages, too, and links
between files work as they do where the files are read.
"""

import pathlib
import re

from sphinx.ext.napoleon.docstring import GoogleDocstring

ROOT = pathlib.Path(__file__).parent.parent

project = "gqmm"
author = "the gqmm authors"
project_copyright = author
version = release = re.search(r"project\(gqmm VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))[1]

extensions = ["breathe", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/**/*.md", "bench/results/*.md", "models/README.md"]
exclude_patterns = [".*", "build", "dist"]
html_theme = "furo"
html_title = f"gqmm {version}"

myst_heading_anchors = 4
highlight_language = "none"  # blocks without a language are commands and pictures

breathe_projects = {"gqmm": str(ROOT / "build" / "docs" / "doxygen" / "xml")}
breathe_default_project = "gqmm"
breathe_show_include = False
breathe_default_members = ("members", "undoc-members")
# Each header opens the namespace, so the page declares it more than once.
suppress_warnings = ["duplicate_declaration.cpp"]


autodoc_typehints = "signature"
autodoc_mock_imports = ["mpi4py", "torch"]  # engines need them, and are documented without
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False


def _attribute(docstring: GoogleDocstring) -> tuple[str, list[str]]:
    return "", [docstring._lines.next(), *docstring._dedent(docstring._consume_to_end())]


def _returns(docstring: GoogleDocstring, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
    lines = docstring._dedent(docstring._consume_to_next_section())
    return [("", "", lines)] if lines else []


# Napoleon takes what stands before a colon in "Returns:" and in the docstring of an attribute for a type. Here it is a part of
# the sentence: types are in the signatures.
GoogleDocstring._consume_inline_attribute = _attribute
GoogleDocstring._consume_returns_section = _returns
