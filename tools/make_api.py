"""Writes docs/kfac_api.md from the signatures and docstrings of acktr_tf.kfac.

python tools/make_api.py

griffe reads the files; the package is not imported, so that TensorFlow is not needed.
"""

import ast
import re
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import griffe
from griffe import DocstringSectionKind as Kind

PACKAGE = "acktr_tf.kfac"
DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "kfac_api.md"
EQUATIONS = DOCS / "kfac.md"

INTRODUCTION = """\
# API of `acktr_tf.kfac`

<!-- Written by tools/make_api.py from the docstrings of acktr_tf.kfac. Do not edit. -->

`from acktr_tf import kfac` has these names. [K-FAC for a Keras model](kfac_keras.md) is
their guide; [How K-FAC works here](kfac.md) derives the equations that are cited.
Brackets after a value are its shape, with N examples: `[N, ...]`. Of what a class has
from Keras, only that is listed which is not as in Keras.
"""

TYPES = "Types in signatures"
TYPES_INTRODUCTION = f"""\
## {TYPES}

What some of the arguments and results above are. These have no names in `kfac`.
"""

WIDTH = 88
"""Of a line of code."""

HEADINGS = {
    Kind.parameters: "Arguments",
    Kind.attributes: "Attributes",
    Kind.returns: "Returns",
    Kind.raises: "Raises",
}

CITATION = re.compile(
    r"\b(?:equations?|eq\.) \(\d+\)(?:(?:, | and | to )\(\d+\))*", re.I
)
"""As `eq. (10)`, `Equations (5), (6)`, `equations (8) to (10)`."""

STARS = {
    griffe.ParameterKind.var_positional: "*",
    griffe.ParameterKind.var_keyword: "**",
}


# What there is ----------------------------------------------------------------------
@dataclass(frozen=True)
class Api:
    """What a page tells of.

    Attributes:
      entries: Label → what it stands for, in the order of the page: `KFAC`, then each
        of its own public methods and properties, as `KFAC.attach`.
      types: Name → a type of the package that is in a signature and has no entry.
      root: Where the package lies.
    """

    entries: dict[str, griffe.Object]
    types: dict[str, griffe.Object]
    root: Path


def read(package: str = PACKAGE, root: Path = DOCS.parent) -> Api:
    """What is public in a package that has an `__all__`."""
    module = griffe.load(
        package, search_paths=[root], allow_inspection=False, docstring_parser="google"
    )
    entries = {}
    for name in module.exports:
        entries[name] = _target(module[name])
        if not entries[name].is_function:
            entries |= {
                f"{name}.{member.name}": member
                for member in entries[name].members.values()
                if not member.is_alias and _has_section(member)
            }
    return Api(entries, _types(module, entries.values()), root)


def _target(item: griffe.Object | griffe.Alias) -> griffe.Object:
    return item.final_target if item.is_alias else item


def _has_section(member: griffe.Object) -> bool:
    """Attributes without a docstring are arguments of the constructor, kept."""
    told = member.is_function or _is_property(member) or member.has_docstring
    return told and not member.name.startswith("_")


def _is_property(item: griffe.Object) -> bool:
    return "property" in item.labels


def _types(
    module: griffe.Module, items: Collection[griffe.Object]
) -> dict[str, griffe.Object]:
    annotations = [
        item.annotation for item in items if not (item.is_class or item.is_module)
    ]
    for item in items:
        annotations += [
            parameter.annotation for parameter in _parameters(item).values()
        ]
    inside = f"{module.path}."
    paths = {
        name.canonical_path
        for annotation in annotations
        if isinstance(annotation, griffe.Expr)
        for name in annotation.iterate()
        if isinstance(name, griffe.ExprName)
    } - {item.path for item in items}
    types = [
        _target(module[path.removeprefix(inside)])
        for path in paths
        if path.startswith(inside)
    ]
    types.sort(key=lambda item: item.name)
    return {item.name: item for item in types}


def _parameters(item: griffe.Object) -> dict[str, griffe.Parameter]:
    """Name, with its stars → argument of a function or class; without `self`."""
    if item.is_class:
        parameters = list(item.parameters)[1:]
    elif item.is_function:
        is_bound = item.parent.is_class and "staticmethod" not in item.labels
        parameters = list(item.parameters)[is_bound:]
    else:
        parameters = []
    return {STARS.get(each.kind, "") + each.name: each for each in parameters}


def _sections(item: griffe.Object) -> list[griffe.DocstringSection]:
    if item.docstring is None:
        return []
    # What the parser warns of, `gaps` finds.
    return item.docstring.parse("google", returns_multiple_items=False, warnings=False)


def gaps(api: Api) -> Iterator[str]:
    """Where the docstrings tell less than there is, or more."""
    for label, item in (api.entries | api.types).items():
        if not item.has_docstring:
            yield f"{label} has no docstring"
        elif label in api.entries:
            taken = list(_parameters(item))
            told = [
                argument.name
                for section in _sections(item)
                if section.kind is Kind.parameters
                for argument in section.value
            ]
            if taken != told:
                yield f"{label} takes {taken}, its docstring tells of {told}"


# The page ---------------------------------------------------------------------------
def page(api: Api) -> str:
    """The text of docs/kfac_api.md."""
    labels = [*api.entries, *api.types]
    numbers = equations(EQUATIONS.read_text("utf-8"))
    prose = {
        label: Prose(label, set(_parameters(item)), labels, numbers)
        for label, item in (api.entries | api.types).items()
    }
    parts = [INTRODUCTION, *_contents(api, prose)]
    for label, item in api.entries.items():
        parts += _entry(label, item, prose[label], api.root)
    parts += [TYPES_INTRODUCTION] if api.types else []
    for label, item in api.types.items():
        parts += _type(item, prose[label], api.root)
    return "\n".join(parts)


def equations(text: str) -> dict[str, str]:
    """Number of each equation of a page → anchor of the section that has it."""
    found, section = {}, ""
    for line in text.splitlines():
        if line.startswith("#"):
            section = anchor(line.lstrip("# "))
        elif number := re.search(r"\((\d+)\)\$\$$", line):
            found[number[1]] = section
    return found


def anchor(heading: str) -> str:
    """What GitHub makes of a heading, to link to it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@dataclass(frozen=True)
class Prose:
    """Turns text of a docstring into Markdown.

    Attributes:
      label: Of the entry whose docstring it is.
      arguments: Names of its arguments, which are no links.
      labels: Of all entries of the page.
      equations: Number → anchor in the page of equations.
    """

    label: str
    arguments: Collection[str]
    labels: Collection[str]
    equations: dict[str, str]

    def markdown(self, text: str) -> str:
        """Paragraphs, lists, tables, and what is indented as code."""
        blocks = re.split(r"\n{2,}", text.strip("\n"))
        made: list[str] = []
        for is_code, group in groupby(blocks, lambda block: block.startswith("    ")):
            if is_code:
                made += self._code(textwrap.dedent("\n\n".join(group)))
            else:
                made += [self._paragraph(block) for block in group]
        return "\n\n".join(made)

    def line(self, text: str) -> str:
        """Text without paragraphs: links in, and nothing that GitHub takes for HTML."""
        parts = re.split(r"(`[^`]+`)", text)
        parts[1::2] = [self._name(code) for code in parts[1::2]]
        parts[::2] = [self._plain(words) for words in parts[::2]]
        return "".join(parts)

    def _paragraph(self, block: str) -> str:
        # Elsewhere a line that happens to begin with "1." or "-" would make a list.
        keeps_lines = block.startswith(("- ", "1. ", "|"))
        return self.line(block if keeps_lines else " ".join(block.split()))

    def _code(self, code: str) -> Iterator[str]:
        try:
            ast.parse(code)
            language = "python"
        except SyntaxError:
            language = ""
        yield f"```{language}\n{code}\n```"
        # There are no links in code.
        if numbers := re.findall(r"\(\d+\)", " ".join(CITATION.findall(code))):
            plural = "s" if len(numbers) > 1 else ""
            cited = f"Equation{plural} {', '.join(numbers)} of docs/{EQUATIONS.name}."
            yield self.line(cited)

    def _name(self, code: str) -> str:
        """A link, if it is the name of another entry."""
        name = code.strip("`").removeprefix("kfac.").removesuffix("()")
        for label in (f"{self.label.partition('.')[0]}.{name}", name):
            known = label in self.labels and label != self.label
            if known and name not in self.arguments:
                return f"[{code}](#{anchor(label)})"
        return code

    def _plain(self, words: str) -> str:
        words = re.sub(r"[<$]", r"\\\g<0>", words)
        paper = r"[\g<0>](https://arxiv.org/abs/\1)"
        words = re.sub(r"arXiv (\d{4}\.\d{4,5})", paper, words)
        words = CITATION.sub(
            lambda cited: re.sub(r"\((\d+)\)", self._equation, cited[0]), words
        )
        page = EQUATIONS.name
        return words.replace(f"docs/{page}", f"[docs/{page}]({page})")

    def _equation(self, number: re.Match[str]) -> str:
        if number[1] not in self.equations:
            raise ValueError(
                f"docs/{EQUATIONS.name} has no such equation. Received: {number[0]} in "
                f"{self.label}"
            )
        return f"[{number[0]}]({EQUATIONS.name}#{self.equations[number[1]]})"


def _contents(api: Api, prose: dict[str, Prose]) -> Iterator[str]:
    for name, item in api.entries.items():
        if "." in name:
            continue
        text = item.docstring.value if item.docstring else ""
        summary = " ".join(text.partition("\n\n")[0].split())
        members = " · ".join(
            f"[`{member.name}`](#{anchor(label)})"
            for label, member in api.entries.items()
            if label.startswith(f"{name}.")
        )
        yield f"- [`{name}`](#{anchor(name)}): {prose[name].line(summary)}"
        if members:
            yield f"\n  {members}\n"
    if api.types:
        yield f"- [{TYPES}](#{anchor(TYPES)})"
    yield ""


def _entry(label: str, item: griffe.Object, prose: Prose, root: Path) -> Iterator[str]:
    """Signature, where it comes from or what kind of member it is, and docstring."""
    is_member = "." in label
    yield f"{'###' if is_member else '##'} `{label}`\n"
    yield _fenced(_signature(item))
    yield from _kind(item) if is_member else _origin(item, prose, root)
    yield from _docstring(item, prose)


def _type(item: griffe.Object, prose: Prose, root: Path) -> Iterator[str]:
    """What it is, and its attributes; how it is made is no matter here."""
    yield f"### `{item.name}`\n"
    if item.is_attribute:
        yield _fenced(f"{item.name} = {item.value}")
    yield from _origin(item, prose, root)
    yield from _docstring(item, prose, {Kind.text, Kind.attributes})


def _fenced(code: str) -> str:
    return f"```python\n{_quoted(code)}\n```\n"


def _quoted(code: object) -> str:
    """With the quotation marks of the house."""
    return re.sub(r"'([^'\"]*)'", r'"\1"', str(code))


def _signature(item: griffe.Object) -> str:
    if item.is_attribute:
        return f"{item.name}: {item.annotation}"
    if item.is_module:
        return f"from {PACKAGE} import {item.name}"
    function = item.all_members.get("__init__") if item.is_class else item
    if function is None:
        return f"class {item.name}"
    text = function.signature(name=item.name, return_type=item.is_function)
    if len(text) <= WIDTH:
        return text
    name, _, rest = text.partition("(")
    arguments, _, result = rest.rpartition(")")
    # The commas between arguments are those with a name and its type after them.
    arguments = re.sub(r", (?=\*{0,2}\w+: |[*/],)", ",\n    ", arguments)
    return f"{name}(\n    {arguments},\n){result}"


def _origin(item: griffe.Object, prose: Prose, root: Path) -> Iterator[str]:
    bases = [f"`{base}`" for base in item.bases] if item.is_class else []
    public = ", ".join(base for base in bases if not base.startswith("`_"))
    extends = f"Extends {prose.line(public)}. " if public else ""
    # Without the line, which an edit anywhere above would change.
    path = item.filepath.relative_to(root).as_posix()
    yield f"{extends}Source: [{path}](../{path})\n"


def _kind(member: griffe.Object) -> Iterator[str]:
    if _is_property(member):
        yield f"*Property{', may be set' if 'writable' in member.labels else ''}.*\n"
    for kind in ("class", "static"):
        if f"{kind}method" in member.labels:
            yield f"*{kind.capitalize()} method.*\n"


def _docstring(
    item: griffe.Object, prose: Prose, shown: Collection[Kind] = (Kind.text, *HEADINGS)
) -> Iterator[str]:
    parameters = _parameters(item)
    for section in _sections(item):
        if section.kind is not Kind.text and section.kind not in HEADINGS:
            raise ValueError(
                f"The page has no place for this section. Received: "
                f"{section.kind.value} in {prose.label}"
            )
        if section.kind not in shown:
            continue
        if section.kind is Kind.text:
            yield prose.markdown(section.value) + "\n"
            continue
        yield f"**{HEADINGS[section.kind]}**\n"
        for told in section.value:
            text = textwrap.indent(prose.markdown(told.description), "  ").lstrip()
            yield f"- {_head(told, parameters, prose)}: {text}"
        yield ""


def _head(
    told: griffe.DocstringElement,
    parameters: dict[str, griffe.Parameter],
    prose: Prose,
) -> str:
    """What stands before the colon: name, type and default."""
    about = [] if told.annotation is None else [f"`{_quoted(told.annotation)}`"]
    name = getattr(told, "name", "")
    if not name:
        return prose.line("".join(about))
    default = parameters[name].default if name in parameters else None
    if default is not None and not name.startswith("*"):
        about.append(f"default `{_quoted(default)}`")
    return f"`{name}`" + (f" ({prose.line(', '.join(about))})" if about else "")


if __name__ == "__main__":
    PAGE.write_text(page(read()), encoding="utf-8")
