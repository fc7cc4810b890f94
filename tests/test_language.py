"""The language rules of the project, as checks; CONTRIBUTING.md says why.

Every checker is a function from text to complaints. The first tests feed each of them a bad sample,
so that a checker that stopped working would be noticed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = sorted(ROOT.glob("src/singleout/**/*.py"))
FOLDERS = ("recipes/**", "benchmarks", "fuzz")
CODE = [*PACKAGE, *(path for folder in FOLDERS for path in sorted(ROOT.glob(f"{folder}/*.py")))]
TESTS = [ROOT / "conftest.py", *sorted(ROOT.glob("tests/**/*.py"))]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "examples/cases/README.md",
    ROOT / "src/singleout/builtin/README.md",
]

PRIVATE_VERBS = {"heard", "asked", "said", "told", "beside"}
"""Refused as a whole identifier and as a part of one, such as in ``is_asked``."""
PRIVATE_NAMES = {"found", "there", "wanted", "alone", "own"}
"""Refused as a whole identifier."""
PRIVATE_WORDS = {"heard", "told", "beside", "likeness", "learnt"}
"""Refused in the sentences of pages, where each stood for several technical terms."""

MAX_SENTENCE_WORDS = 40
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

WITHOUT_EXAMPLE = {
    "cli/__init__.py": {"main": "the entry point of the process: it never returns"},
    "cli/commands.py": {"Commands": "a hook of typer, which only the command line calls"},
    "cli/corpus.py": {"corpus": "its docstring is the help text of the command"},
    "cli/extract.py": {"extract": "its docstring is the help text of the command"},
    "cli/formats.py": {"formats": "its docstring is the help text of the command"},
    "cli/index.py": {"index": "its docstring is the help text of the command"},
    "cli/train.py": {"train": "its docstring is the help text of the command"},
    "cli/evaluate.py": {"evaluate": "its docstring is the help text of the command"},
    "cli/benchmark.py": {"benchmark": "its docstring is the help text of the command"},
    "train/checkpoint.py": {"restore": "the example of `save` calls it"},
    "train/loop.py": {"run_loop": "the example of `singleout.train` runs it"},
    "train/run.py": {
        "train": "the example of `singleout.train` runs it",
        "initial_model": "the example of `singleout.train` runs it",
    },
    "cli/prepare.py": {"prepare": "its docstring is the help text of the command"},
    "cli/gap.py": {"gap": "its docstring is the help text of the command"},
}
"""Public names whose docstrings have no example, by file, each with the reason."""


# Identifiers


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that a module defines, with its line.

    Names of functions, classes, arguments, variables and attributes count. Names that are only
    used do not: they may come from a library.
    """
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str(name)):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield node.lineno, name


def parts_of(name: str) -> set[str]:
    """The words of an identifier in snake_case or CamelCase."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return {part.lower() for part in snake.split("_") if part}


def private_identifiers(source: str) -> list[str]:
    """Identifiers that use the private verbs, each as ``line: name``."""
    return [
        f"{line}: {name}"
        for line, name in sorted(set(defined_names(ast.parse(source))))
        if parts_of(name) & PRIVATE_VERBS or name.strip("_").lower() in PRIVATE_NAMES
    ]


# Sentences


def paragraphs(markdown: str) -> Iterator[tuple[int, str]]:
    """The paragraphs, list items and headings of a page, with their lines.

    Code blocks, tables and comments are left out. A code span counts as one word.
    """
    start, lines = 1, list[str]()
    is_code = False
    for number, line in enumerate([*markdown.splitlines(), ""], 1):
        text = line.strip()
        is_fence = text.startswith("```")
        is_break = is_fence or is_code or not text or text.startswith(("|", "<!--", "#", "!["))
        begins_item = re.match(r"(?:[-*+]|\d+\.)\s", text) is not None
        if (is_break or begins_item) and lines:
            yield start, " ".join(lines)
            lines = []
        if is_fence:
            is_code = not is_code
        elif not is_code and text.startswith("#"):
            yield number, text.lstrip("# ")
        elif not is_break:
            start = start if lines else number
            lines.append(text)


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, without the marks of Markdown."""
    text = re.sub(r"`[^`]*`", "CODE", paragraph)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\b(et al|e\.g|i\.e|cf|vs)\.", r"\1", text)
    return re.split(r"(?<=[.!?])[)\"”*_]*\s+(?=[^a-z])", text)


def long_sentences(markdown: str) -> list[str]:
    """Sentences of more than ``MAX_SENTENCE_WORDS`` words, each as ``line: beginning``."""
    complaints = []
    for line, paragraph in paragraphs(markdown):
        for sentence in sentences(paragraph):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if len(words) > MAX_SENTENCE_WORDS:
                complaints.append(f"{line}: {len(words)} words: {' '.join(words[:8])} …")
    return complaints


def private_words(markdown: str) -> list[str]:
    """Private words in sentences, each as ``line: word``."""
    complaints = []
    for line, paragraph in paragraphs(markdown):
        words = set(re.findall(r"[a-z]+", " ".join(sentences(paragraph)).lower()))
        complaints += [f"{line}: {word}" for word in sorted(words & PRIVATE_WORDS)]
    return complaints


# Docstrings


def has_nothing_to_show(node: ast.stmt) -> bool:
    """Whether a class is only a type: an exception, a ``TypedDict`` or a ``Protocol``.

    Nobody calls these to get something. Exceptions that add no code to their base are shown by the
    functions that raise them.
    """
    if not isinstance(node, ast.ClassDef):
        return False
    bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
    is_type = any(base in ("TypedDict", "Protocol") for base in bases)
    is_error = any(base.endswith(("Error", "Exception", "Warning")) for base in bases)
    return is_type or (is_error and len(node.body) == 1)


def without_example(source: str) -> list[str]:
    """Public classes and functions of a module whose docstring has no example."""
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not has_nothing_to_show(node)
        and ">>>" not in (ast.get_docstring(node) or "")
    ]


# Lengths


def long_functions(source: str) -> list[str]:
    """Functions of more than ``MAX_FUNCTION_LINES`` lines, each as ``line: name``.

    All lines count, those of the docstring and of the arguments among them.
    """
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                complaints.append(f"{node.lineno}: {node.name} has {length} lines")
    return complaints


# The checkers find what is wrong


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def asked(): ...", "asked"),
        ("class Heard: ...", "Heard"),
        ("class WasHeard: ...", "WasHeard"),
        ("def f(is_told): ...", "is_told"),
        ("def f(*, beside=1): ...", "beside"),
        ("found = 1", "found"),
        ("_found: int = 1", "_found"),
        ("self.own = 1", "own"),
        ("for alone in range(3): pass", "alone"),
        ("x = [there for there in ()]", "there"),
        ("with open() as wanted: pass", "wanted"),
        ("if (said := 1): pass", "said"),
        ("import numpy as own", "own"),
    ],
)
def test_a_private_verb_as_identifier_is_refused(source: str, name: str) -> None:
    assert private_identifiers(source) == [f"1: {name}"]


@pytest.mark.parametrize(
    "source",
    ["ownership = 1", "not_found = 1", "print(found.asked)", "text = 'asked'", "task = 1"],
)
def test_other_identifiers_are_not_refused(source: str) -> None:
    assert private_identifiers(source) == []


def test_a_long_sentence_is_refused() -> None:
    words = " ".join(["Word"] * 41)
    complaint = "41 words: " + "Word " * 8 + "…"
    assert long_sentences(f"# Title\n\nShort. {words}.\n") == [f"3: {complaint}"]
    assert long_sentences(f"- {words}\n- item") == [f"1: {complaint}"]
    assert long_sentences("Word\n" * 41) == [f"1: {complaint}"]


def test_short_sentences_tables_and_code_are_not_refused() -> None:
    words = " ".join(["word"] * 30)
    assert long_sentences(f"{words}. {words.capitalize()}!\n\n{words}\n") == []
    assert long_sentences(f"- {words}\n- {words}\n") == []
    assert long_sentences(f"| {words} | {words} |\n") == []
    assert long_sentences(f"```console\n$ {words} {words}\n```\n") == []
    assert long_sentences(f"{words} `{words}` [word]({words.replace(' ', '-')}).") == []


def test_a_private_word_in_a_sentence_is_refused() -> None:
    assert private_words("Fine.\n\nThe level of their likeness.\n") == ["3: likeness"]
    assert private_words("`heard` is code, and so is:\n```\ntold\n```\n") == []


def test_a_missing_example_is_refused() -> None:
    source = '''
def documented():
    """Adds.

    Example:
        >>> 1 + 1
        2
    """

def bare(): ...

class NoExample:
    """Does a thing."""

def _private(): ...

class BadValue(ValueError):
    """A bad value."""

class CodedError(ValueError):
    """An error with code."""

    def code(self): ...

class Shape(TypedDict):
    """A dictionary."""

class Pair(NamedTuple):
    """A record."""
'''
    assert without_example(source) == ["bare", "NoExample", "CodedError", "Pair"]


def test_a_long_function_is_refused() -> None:
    def function(docstring: int, body: int) -> str:
        text = '    """' + "Line.\n" * docstring + '    """\n' if docstring else ""
        return "def f():\n" + text + "    x = 1\n" * body

    assert long_functions(function(0, 60)) == ["1: f has 61 lines"]
    assert long_functions(function(50, 20)) == ["1: f has 72 lines"]
    assert long_functions(function(0, 59)) == []


# The project has nothing wrong


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=_name)
def test_identifiers_are_plain(path: Path) -> None:
    assert private_identifiers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_pages_are_plain(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert long_sentences(text) == []
    assert private_words(text) == []


@pytest.mark.parametrize("path", PACKAGE, ids=_name)
def test_public_names_have_examples(path: Path) -> None:
    missing = without_example(path.read_text(encoding="utf-8"))
    exceptions = WITHOUT_EXAMPLE.get(path.relative_to(ROOT / "src/singleout").as_posix(), {})
    assert sorted(missing) == sorted(exceptions)


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_FILE_LINES
    assert long_functions(source) == []
