import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "kfac.md"
# Numbers of docs/kfac.md stand in parentheses; a paper's (eq. 16) do not.
CITATION = re.compile(
    r"[Ee]q(?:uation)?s?\.?\s+(\(\d+\)(?:(?:,|\s+and|\s+to)\s*\(\d+\))*)"
)


def defined() -> list[int]:
    return [int(n) for n in re.findall(r"\\qquad \((\d+)\)", PAGE.read_text("utf-8"))]


def cited(text: str) -> set[int]:
    return {
        int(number)
        for numbers in CITATION.findall(text)
        for number in re.findall(r"\d+", numbers)
    }


def test_citations_are_recognized():
    text = "Equations (3), (4). eq. (10) Eqs. (5), (6) 2016, eq. 29, equation (11) of"
    assert cited(text) == {3, 4, 5, 6, 10, 11}


def test_every_equation_that_the_code_cites_is_in_the_documentation():
    sources = [
        path
        for folder in ("acktr_tf", "benchmarks", "tests/oracles")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    numbers = set().union(*(cited(path.read_text("utf-8")) for path in sources))
    assert numbers >= set(range(2, 21))
    assert numbers <= set(defined())


def test_equations_are_numbered_from_one_in_order_and_once():
    numbers = defined()
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_equation_that_the_page_refers_to_is_on_it():
    assert cited(PAGE.read_text("utf-8")) <= set(defined())
