"""docs/guide/families.md says what is so. Figures that were measured are left out: no test measures time."""

from __future__ import annotations

import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("gqmm.mlx")

from family_table import EXACT, HEADER, PAGE, ROWS, exact_rows, introduction, not_run, rows_of_page

pytestmark = pytest.mark.mlx

REMEDY = "./dev families writes the page again"


@pytest.fixture(scope="module")
def exact() -> dict[str, list[str]]:
    return exact_rows()


@pytest.mark.parametrize("name", ROWS)
def test_the_table_names_the_primitives_of_a_family(name: str, exact: dict[str, list[str]]) -> None:
    row = rows_of_page(PAGE.read_text()).get(name)
    assert row is not None, f"the page has no {name}; {REMEDY}"
    assert row[:EXACT] == exact[name], REMEDY


def test_the_page_has_every_family_and_all_that_is_not_measured() -> None:
    text = PAGE.read_text()
    assert list(rows_of_page(text)) == list(ROWS), REMEDY
    assert text.startswith("\n".join(introduction())), REMEDY
    assert all(len(row) == len(HEADER) for row in rows_of_page(text).values())
    assert text.endswith("\n".join(["", *not_run(), ""])), REMEDY
