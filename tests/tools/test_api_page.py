"""docs/kfac_api.md tells of all that is public in acktr_tf.kfac, as GitHub shows it."""

import inspect
import re
from pathlib import Path

import pytest

from acktr_tf import kfac

SAMPLE = '''
"""A sample."""

import tensorflow as tf

__all__ = ["Dial", "turn"]


class Kept:
    """What a dial keeps."""


class Dial:
    """A dial, eq. (10).

    It turns from `Dial.angle` by `by`, at most
    1. See `turn`, `kfac.Kept` and arXiv 1503.05671; a<b costs $1, $2.

        η = 1

        v = 2     eq. (11), (13)

    | key | unit |
    |---|---|
    | `angle` | eq. (8) |

    Args:
      by: How far, for instance

            dial = Dial(2)
      to: Where to.
    """

    def __init__(self, by: int | None = 1, *, to: str = "a|b") -> None:
        self._by = by

    def {method}(self, {argument}: tf.Tensor) -> Kept:
        {docstring}

    @property
    def angle(self) -> float:
        """Where it is, in radians."""

    @angle.setter
    def angle(self, angle: float) -> None: ...

    def _hidden(self, anything): ...


def turn(
    one: tf.Tensor, another: tf.Tensor, *args: dict[str, tf.Tensor], **kwargs: int
) -> None:
    """Turns `one` and `another`.

    Args:
      one: `[N]`.
      another: `[N]`.
      *args: More.
      **kwargs: Of the rest.
    """
'''
DOCUMENTED = '"""Does.\n\n        Args:\n          x: Equation (7).\n        """'


@pytest.fixture
def make_api(docs_script):
    return docs_script("make_api")


@pytest.fixture
def sample(make_api, tmp_path):
    def read(method="turn", argument="x", docstring=DOCUMENTED):
        text = SAMPLE
        for name, value in locals().copy().items():
            text = text.replace(f"{{{name}}}", str(value))
        (tmp_path / "sample.py").write_text(text, "utf-8")
        return make_api.read("sample", tmp_path)

    return read


# The page ---------------------------------------------------------------------------
def test_the_page_is_what_the_script_writes(make_api):
    page = make_api.page(make_api.read())
    assert make_api.PAGE.read_text("utf-8") == page, "run tools/make_api.py"


def test_all_that_is_public_has_a_docstring_with_its_arguments(make_api):
    assert list(make_api.gaps(make_api.read())) == []


def own_members(item):
    if inspect.ismodule(item):
        return {
            name: value
            for name, value in vars(item).items()
            if getattr(value, "__module__", None) == item.__name__
        }
    return vars(item) if inspect.isclass(item) else {}


def test_the_entries_are_what_python_finds(make_api):
    members = {
        f"{name}.{member}"
        for name in kfac.__all__
        for member, value in own_members(getattr(kfac, name)).items()
        if isinstance(value, property | classmethod | staticmethod)
        or inspect.isfunction(value)
        if not member.startswith("_")
    }
    assert set(make_api.read().entries) == {*kfac.__all__, *members}


def headings(text):
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]


def test_links_lead_somewhere(make_api):
    text = make_api.PAGE.read_text("utf-8")
    anchors = [make_api.anchor(heading) for heading in headings(text)]
    assert len(anchors) == len(set(anchors))
    for target in set(re.findall(r"\]\(([^)]+)\)", text)):
        if target.startswith("https:"):
            continue
        path, _, section = target.partition("#")
        file = make_api.DOCS / path if path else make_api.PAGE
        assert file.is_file(), target
        if section:
            named = headings(file.read_text("utf-8"))
            assert section in map(make_api.anchor, named), target


def test_every_equation_has_a_section(make_api):
    text = make_api.EQUATIONS.read_text("utf-8")
    numbers = make_api.equations(text)
    assert list(numbers) == [str(1 + index) for index in range(len(numbers))]
    assert numbers["1"] == "the-fisher-matrix"
    assert numbers["20"] == "a-step-from-the-quadratic-model"


def test_it_is_linked():
    root = Path(__file__).parents[2]
    assert "(docs/kfac_api.md)" in (root / "README.md").read_text("utf-8")
    assert "(kfac_api.md)" in (root / "docs" / "kfac_keras.md").read_text("utf-8")


# Gaps -------------------------------------------------------------------------------
def test_a_documented_sample_has_no_gaps(make_api, sample):
    assert list(make_api.gaps(sample())) == []


@pytest.mark.parametrize(
    ("changed", "gap"),
    [
        ({"docstring": "..."}, "Dial.turn has no docstring"),
        ({"docstring": '"""Does."""'}, "Dial.turn takes ['x'], its docstring tells of"),
        ({"argument": "y"}, "Dial.turn takes ['y'], its docstring tells of ['x']"),
        ({"argument": "y, x"}, "Dial.turn takes ['y', 'x'], its docstring tells of"),
        ({"argument": "*x"}, "Dial.turn takes ['*x'], its docstring tells of ['x']"),
    ],
)
def test_gaps_are_found(make_api, sample, changed, gap):
    [found] = make_api.gaps(sample(**changed))
    assert found.startswith(gap)


def test_what_is_private_may_have_gaps(make_api, sample):
    assert list(make_api.gaps(sample(method="_turn", docstring="..."))) == []


# Markdown ---------------------------------------------------------------------------
def test_signatures_are_code_of_88_columns(make_api, sample):
    page = make_api.page(sample())
    assert '```python\nDial(by: int | None = 1, *, to: str = "a|b")\n```' in page
    assert "```python\nturn(x: tf.Tensor) -> Kept\n```" in page
    assert "```python\nangle: float\n```\n\n*Property, may be set.*\n" in page
    long = (
        "turn(\n    one: tf.Tensor,\n    another: tf.Tensor,\n"
        "    *args: dict[str, tf.Tensor],\n    **kwargs: int,\n) -> None"
    )
    assert f"```python\n{long}\n```" in page


def test_arguments_have_types_and_defaults(make_api, sample):
    page = make_api.page(sample())
    assert '- `to` (`str`, default `"a|b"`): Where to.\n' in page
    assert "- `one` (`tf.Tensor`): `[N]`.\n" in page
    assert "- `*args` (`dict[str, tf.Tensor]`): More.\n" in page


def test_code_in_docstrings_is_fenced(make_api, sample):
    page = make_api.page(sample())
    assert "```\nη = 1\n\nv = 2     eq. (11), (13)\n```\n\nEquations [(11)](" in page
    item = "How far, for instance\n\n  ```python\n  dial = Dial(2)\n  ```\n"
    assert f"- `by` (`int | None`, default `1`): {item}" in page


def test_tables_in_docstrings_survive(make_api, sample):
    row = "| [`angle`](#dialangle) | eq. [(8)](kfac.md#damping) |"
    assert f"\n\n| key | unit |\n|---|---|\n{row}\n" in make_api.page(sample())


def test_prose_is_no_list_no_html_and_no_mathematics(make_api, sample):
    page = make_api.page(sample())
    assert "at most 1. See" in page
    assert r"a\<b costs \$1, \$2." in page


def test_names_papers_and_equations_are_links(make_api, sample):
    page = make_api.page(sample())
    assert "A dial, eq. [(10)](kfac.md#the-step).\n" in page
    assert "from [`Dial.angle`](#dialangle) by `by`, at most" in page
    assert "See [`turn`](#dialturn), [`kfac.Kept`](#kept) and" in page
    assert "[arXiv 1503.05671](https://arxiv.org/abs/1503.05671)" in page
    assert "x` (`tf.Tensor`): Equation [(7)](kfac.md#running-means)." in page
    assert "Turns `one` and `another`." in page


def test_types_of_results_have_a_section(make_api, sample):
    api = sample()
    assert list(api.types) == ["Kept"]
    text = "### `Kept`\n\nSource: [sample.py](../sample.py)\n\nWhat a dial keeps.\n"
    assert text in make_api.page(api)


@pytest.mark.parametrize(
    ("docstring", "match"),
    [
        ('"""Does, equation (99)."""', r"no such equation. Received: \(99\) in Dial"),
        (
            '"""Does.\n\n        Yields:\n          x.\n        """',
            "Received: yields in",
        ),
    ],
)
def test_what_the_page_cannot_show_is_an_error(make_api, sample, docstring, match):
    with pytest.raises(ValueError, match=match):
        make_api.page(sample(docstring=docstring))
