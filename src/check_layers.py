"""Checks that C++ files include only what their layer may: `./dev lint` runs it in the root of the repository.

    python src/check_layers.py [FOLDER]      FOLDER: a clone; the current folder if not given

The table below the heading "What may include what" of docs/dev/architecture.md says what is allowed. Prints a line for each
include that the table does not allow, and for each folder that the table lacks. Exit status 1 if there are any.
"""

from __future__ import annotations

import pathlib
import re
import sys

TABLE = "docs/dev/architecture.md"
HEADING = "## What may include what"
ROW = re.compile(r"^\| `([\w/]+)` \| (.*) \|$", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<(gqmm/[^>]+)>)', re.MULTILINE)
FOR_ALL = ("src/namespaces.hpp", "src/internal_api.hpp", "src/assertion.hpp")


def allowed_folders(root: pathlib.Path) -> dict[str, set[str]]:
    """Each folder of the table, with those that it may include."""
    text = (root / TABLE).read_text().split(HEADING, 1)[1].split("\n## ", 1)[0]
    rows = {folder: set(re.findall(r"`([\w/]+)`", others)) for folder, others in ROW.findall(text)}
    if not rows:
        sys.exit(f"{TABLE} has no table below {HEADING!r}")
    return rows


def folder_in_table(path: pathlib.PurePath, folders: dict[str, set[str]]) -> str | None:
    """The folder of the table that a file belongs to: its own, or for the folders of programs the one above it."""
    for parent in path.parents:
        if str(parent) in folders:
            # Folders of the library stand in the table one by one.
            return str(parent) if parent == path.parent or not str(parent).startswith("src") else None
    return None


def included_file(root: pathlib.Path, source: pathlib.PurePath, name: str) -> pathlib.PurePath | None:
    """The file of this project that an include means; None for one that the build makes."""
    for base in (source.parent, "src", "bench", "", "python/src", "include"):
        candidate = pathlib.PurePath(base) / name
        resolved = (root / candidate).resolve()
        if resolved.is_file() and resolved.is_relative_to(root):
            return resolved.relative_to(root)
    return None


def problems(root: pathlib.Path) -> list[str]:
    """A line for each include that is not allowed."""
    folders = allowed_folders(root)
    found = []
    files = [path for top in ("include", "src", "tools", "cli", "bench", "python") for path in (root / top).rglob("*.[ch]pp")]
    for path in sorted(files):
        source = path.relative_to(root)
        if str(source.parent) == "src":
            continue
        folder = folder_in_table(source, folders)
        if folder is None:
            found.append(f"{source}: its folder is not in the table of {TABLE}")
            continue
        text = path.read_text()
        for match in INCLUDE.finditer(text):
            included = included_file(root, source, match[1] or match[2])
            if included is None or str(included) in FOR_ALL:
                continue
            other = folder_in_table(included, folders)
            if other not in {folder, "include/gqmm", *folders[folder]}:
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{source}:{line}: {folder} may not include {included}; see {TABLE}")
    return found


def main() -> int:
    """Checks the folder of the command line, or the current one; returns the exit status."""
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found = problems(root)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
