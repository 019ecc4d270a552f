"""Checks the links of the documents, without a network: `./dev lint` runs it in the root of the repository.

    python docs/check_links.py [FOLDER]      FOLDER: a clone; the current folder if not given

Three kinds of references must lead somewhere:

- relative links and images of Markdown files, with their anchors, which are made from headings as GitHub makes them;
- names of documents (docs/….md) in any file, such as a comment in a source;
- names of files and folders in code spans of Markdown files (`src/…`), except in the notebook, whose entries keep old names.

Prints a line for each reference that leads nowhere. Exit status 1 if there are any.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

DOCUMENT = re.compile(r"(?<![\w/.])docs/[\w./-]+\.md\b(?:#([\w-]+))?")
PATH = re.compile(r"(?:bench|cli|cmake|docs|examples|include|models|python|src|tests)/[\w./-]+")
KEEPS_OLD_NAMES = ("docs/notebook/", "CHANGELOG.md", "bench/results/")


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST make from the text of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def text_of(inline: Token) -> str:
    """The text of a heading without its markup."""
    return "".join(child.content for child in inline.children or [])


class Page:
    """A Markdown file: its anchors, links and code spans, the last two with the number of their line."""

    def __init__(self, text: str) -> None:
        """Parse the text of a file."""
        self.anchors: set[str] = set()
        self.links: list[tuple[int, str]] = []
        self.code: list[tuple[int, str]] = []
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
        for before, token in zip([None, *tokens], tokens, strict=False):
            if token.type != "inline":
                continue
            line = (token.map or [0])[0] + 1
            if before is not None and before.type == "heading_open":
                self._add_anchor(slug(text_of(token)))
            for child in token.children or []:
                if child.type == "softbreak":
                    line += 1
                elif child.type in ("link_open", "image"):
                    self.links.append((line, str(child.attrs.get("href") or child.attrs.get("src"))))
                elif child.type == "code_inline":
                    self.code.append((line, child.content))

    def _add_anchor(self, anchor: str) -> None:
        """GitHub numbers the second heading of the same text."""
        numbered, number = anchor, 0
        while numbered in self.anchors:
            number += 1
            numbered = f"{anchor}-{number}"
        self.anchors.add(numbered)


class Repository:
    """The files of a clone that git tracks or would track."""

    def __init__(self, root: pathlib.Path) -> None:
        """List and parse the files of a clone."""
        self.root = root
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=True
        )
        self.files = sorted(name for name in listed.stdout.decode().split("\0") if name and (root / name).is_file())
        self.names = set(self.files)
        for name in self.files:
            self.names.update(str(folder) for folder in pathlib.PurePosixPath(name).parents)
        self.pages = {name: Page(self.read(name)) for name in self.files if name.endswith(".md")}

    def read(self, name: str) -> str:
        """The text of a file."""
        return (self.root / name).read_text(encoding="utf-8", errors="replace")

    def broken_link(self, page: str, target: str) -> str | None:
        """Why a link of a page leads nowhere; None if it does lead somewhere."""
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            return None
        path, _, anchor = urllib.parse.unquote(target).partition("#")
        name = page
        if path:
            found = (self.root / page).parent.joinpath(path).resolve()
            if not found.is_relative_to(self.root.resolve()):
                return f"{target} leads out of the repository"
            name = found.relative_to(self.root.resolve()).as_posix()
        if name not in self.names:
            return f"{target}: there is no {name}"
        if anchor and name in self.pages and anchor not in self.pages[name].anchors:
            return f"{target}: {name} has no heading #{anchor}"
        return None

    def broken_links(self) -> Iterator[str]:
        """Links and images of Markdown files."""
        for name, page in self.pages.items():
            for line, target in page.links:
                if reason := self.broken_link(name, target):
                    yield f"{name}:{line}: {reason}"

    def broken_mentions(self) -> Iterator[str]:
        """Names of documents in any file."""
        for name in self.files:
            if name.endswith((".json", ".safetensors", ".png", ".svg")):
                continue
            for number, line in enumerate(self.read(name).splitlines(), 1):
                for mention in DOCUMENT.finditer(line):
                    document = mention[0].partition("#")[0]
                    if document not in self.names:
                        yield f"{name}:{number}: there is no {document}"
                    elif mention[1] and mention[1] not in self.pages[document].anchors:
                        yield f"{name}:{number}: {document} has no heading #{mention[1]}"

    def broken_paths(self) -> Iterator[str]:
        """Files and folders that code spans of Markdown files name."""
        for name, page in self.pages.items():
            if name.startswith(KEEPS_OLD_NAMES):
                continue
            for line, code in page.code:
                if PATH.fullmatch(code) and code.rstrip("/") not in self.names:
                    yield f"{name}:{line}: there is no {code}"


def main() -> int:
    """Print what is broken."""
    repository = Repository(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    broken = [*repository.broken_links(), *repository.broken_mentions(), *repository.broken_paths()]
    print("\n".join(broken) or f"all links of {len(repository.pages)} Markdown files lead somewhere")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
