"""Sums the results of the parts of `./dev test` and prints failures, skips with their reasons, and totals.

usage: totals.py NAME=STATUS=FOLDER...

STATUS is the exit status of the part's commands and FOLDER holds its results as JUnit XML: those of GoogleTest programs in
NAME.xml, those of pytest in pytest.xml, and those of ctest in ctest.xml. A ctest entry with a NAME.xml counts as the tests in
there, any other as one test. What failed without leaving a failed test (a build, a crash, a leak found at exit) counts as one.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

FAILURES_SHOWN = 20
LINES_SHOWN = 30


@dataclass
class Results:
    passed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    skips: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Results) -> None:
        self.passed += other.passed
        self.failures += other.failures
        self.skips += other.skips

    def line(self) -> str:
        return f"{self.passed} passed, {len(self.failures)} failed, {len(self.skips)} skipped"


def text_of(element: ElementTree.Element) -> str:
    return (element.text or element.get("message") or "").strip()


def read_cases(path: Path) -> Results:
    """The tests in one XML file of GoogleTest or pytest."""
    results = Results()
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        broken = case.findall("failure") + case.findall("error")
        skipped = case.find("skipped")
        if broken:
            results.failures.append((name, "\n".join(text_of(element) for element in broken)))
        elif skipped is not None:
            # GoogleTest gives "file:line\nreason", pytest the reason as the message.
            reason = skipped.get("message") or ""
            results.skips.append((name, reason.splitlines()[-1] if reason else "no reason given"))
        elif case.get("status") == "notrun":
            results.skips.append((name, "disabled"))
        else:
            results.passed += 1
    return results


def read_ctest(path: Path) -> Results:
    results = Results()
    for case in ElementTree.parse(path).iter("testcase"):
        name = case.get("name", "")
        output = case.findtext("system-out") or ""
        own = path.parent / f"{name}.xml"  # names have slashes where they are paths
        found = Results()
        if own.exists():
            try:
                found = read_cases(own)
            except ElementTree.ParseError:
                found = Results()
        elif case.get("status") == "run":
            found.passed = 1
        elif case.get("status") in ("notrun", "disabled"):
            skipped = case.find("skipped")
            reason = skipped.get("message", "") if skipped is not None else ""
            if skipped is None or "Unable to find executable" in reason or "NOT_FOUND" in reason:
                found.failures.append((name, reason or "did not run"))
            else:
                found.skips.append((name, reason))
        if case.get("status") == "fail" and not found.failures:
            end = "\n".join(output.splitlines()[-LINES_SHOWN:])
            found.failures.append((name, f"the program failed outside its tests\n{end}"))
        results.add(found)
    return results


def read_part(name: str, status: int, folder: Path) -> Results:
    results = Results()
    try:
        if (folder / "ctest.xml").exists():
            results.add(read_ctest(folder / "ctest.xml"))
        if (folder / "pytest.xml").exists():
            results.add(read_cases(folder / "pytest.xml"))
    except ElementTree.ParseError as error:
        results.failures.append((name, f"unreadable results: {error}"))
    if status != 0 and not results.failures:
        results.failures.append((name, f"ended with status {status} and no failed test; its output is above"))
    if status == 0 and not (results.passed or results.skips):
        results.failures.append((name, "ran no test"))
    return results


def main(arguments: list[str]) -> int:
    total = Results()
    print()
    for argument in arguments:
        name, status, folder = argument.rsplit("=", 2)
        results = read_part(name, int(status), Path(folder))
        total.add(results)
        print(f"{name}: {results.line()}")
        for test, message in results.failures[:FAILURES_SHOWN]:
            lines = message.splitlines()
            print(f"  FAILED {test}", *(f"    {line}" for line in lines[:LINES_SHOWN]), sep="\n")
            if len(lines) > LINES_SHOWN:
                print(f"    and {len(lines) - LINES_SHOWN} more lines")
        if len(results.failures) > FAILURES_SHOWN:
            print(f"  and {len(results.failures) - FAILURES_SHOWN} more failures")
        for reason, count in Counter(reason for _, reason in results.skips).items():
            print(f"  skipped {count}: {reason}")
    print()
    print(total.line())
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
