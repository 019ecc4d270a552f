"""Compares the names that the shared library shows with those that may leave it.

    exported_names.py LIBRARY [USER…]

Public names are those that the headers in include/gqmm mark with GQMM_API. Internal ones, which this project's own front ends
take, are marked with GQMM_INTERNAL_API and listed in src/internal_exports.txt. Anything else has leaked. A listed name that the
library does not show is an error as well, and with USERs, the front ends, one that none of them takes.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADERS = ROOT / "include" / "gqmm"
INTERNAL = ROOT / "src" / "internal_exports.txt"


def public_names() -> set[str]:
    """The qualified names of functions, classes and constants that public headers export."""
    names = set()
    for header in sorted([*HEADERS.rglob("*.hpp"), *HEADERS.rglob("*.h")]):
        namespace = ""
        text = re.sub(r"//.*|^#.*", "", header.read_text(), flags=re.MULTILINE)
        for match in re.finditer(r"namespace ([\w:]+) \{|\bGQMM_API\s+([^;{]*)", text):
            opened, declaration = match.groups()
            if opened:
                namespace = opened + "::"
                continue
            is_class = text[: match.start()].rstrip().endswith(("class", "struct"))
            name = re.match(r"\w+" if is_class else r"[^(=]*?(\w+)\s*[(=]|[^(=]*?(\w+)$", declaration)
            assert name, f"{header}: cannot read the declaration 'GQMM_API {declaration}'"
            names.add(namespace + next(found for found in (*name.groups(), name[0]) if found))
    return names


def internal_names() -> set[str]:
    return {line for line in INTERNAL.read_text().splitlines() if line and not line.startswith("#")}


def qualified_name(symbol: str) -> str:
    """ "gqmm::io::Tensor::view" of "gqmm::io::Tensor::view() const"; what an entry for a class is about."""
    symbol = re.sub(r"^(typeinfo name|typeinfo|vtable|VTT|guard variable) for ", "", symbol)
    depth = 0
    for position, character in enumerate(symbol):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            symbol = symbol[:position]
            break
    return re.sub(r"\[abi:\w+\]", "", symbol)


def symbols_of(file: str, which: str) -> dict[str, str]:
    """{symbol: qualified name} of the dynamic symbols of a file, `which` of "defined" and "undefined"."""
    command = ["nm", "--dynamic", f"--{which}-only", "--demangle", "--without-symbol-versions", file]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    symbols = [re.sub(r"^[0-9a-f]*\s+\w ", "", line) for line in output.splitlines()]
    return {symbol: qualified_name(symbol) for symbol in symbols}


def covers(name: str, qualified: str) -> bool:
    """Whether a name is the symbol's own or that of its class."""
    return qualified == name or qualified.startswith(name + "::")


def problems(library: str, users: list[str]) -> list[str]:
    shown = symbols_of(library, "defined")
    public, internal = public_names(), internal_names()
    allowed = public | internal
    found = [
        f"{symbol} has leaked: no public header exports it with GQMM_API and {INTERNAL.name} does not list it"
        for symbol, qualified in shown.items()
        if not any(covers(name, qualified) for name in allowed)
    ]
    found += [
        f"{name} is internal in {INTERNAL.name} and public in a header; strike it from the list" for name in public & internal
    ]
    found += [
        f"{name} is listed in {INTERNAL.name} and the library does not show it; strike it from the list"
        for name in internal
        if not any(covers(name, qualified) for qualified in shown.values())
    ]
    if "gqmm::gather_qmm" not in shown.values():
        found.append("the library does not show gqmm::gather_qmm")
    if users:
        taken = {qualified for user in users for qualified in symbols_of(user, "undefined").values()}
        found += [
            f"{name} is listed in {INTERNAL.name} and no front end takes it; make it GQMM_INTERNAL_API no longer"
            for name in internal
            if not any(covers(name, qualified) for qualified in taken)
        ]
    return sorted(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("library")
    parser.add_argument("users", nargs="*")
    arguments = parser.parse_args()
    found = problems(arguments.library, arguments.users)
    print(*found, sep="\n")
    if not found:
        print(
            f"{arguments.library} shows what it should: {len(public_names())} public and {len(internal_names())} internal names"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
