"""Queries and examples, and the names that ``singleout`` exports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import singleout
from singleout import Example, Query
from singleout.errors import InputError, QueryError, SingleoutError


def test_every_error_is_exported_and_in_the_tree() -> None:
    for name in singleout.__all__:
        if name.endswith("Error") or name == "Cancelled":
            assert issubclass(getattr(singleout, name), SingleoutError)
            assert name in (singleout.errors.__doc__ or "")
    for error in (singleout.AudioError, QueryError, singleout.ConfigError, singleout.OutputError):
        assert issubclass(error, InputError)
        assert issubclass(error, ValueError)
    assert issubclass(singleout.MissingExtraError, ImportError)
    assert not issubclass(singleout.ModelError, InputError)


def test_import_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, singleout; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_bare_string_is_one_positive_prompt() -> None:
    assert Query.of("a dog barking") == Query(positive=("a dog barking",))
    assert Query("a dog barking") == Query(positive=("a dog barking",))
    query = Query(positive=("a", "b"), negative=("c",))
    assert Query.of(query) is query
    assert str(query) == "a / b (not c)"


def test_white_space_is_normalised_and_queries_have_a_hash() -> None:
    assert Query("  a \n dog\t") == Query("a dog")
    assert len({Query("a dog"), Query(["a dog"])}) == 1


@pytest.mark.parametrize(
    ("positive", "reason"),
    [
        ("", "empty"),
        (" \t\n", "empty"),
        ("x" * 10_000, "10,000 characters"),
        ((), "the query is empty"),
        (("a dog", ""), "empty"),
        ([b"dog"], "must be text or an example, not bytes"),
        (0.5, "must be text or an example, not float"),
        (None, "must be text or an example, not NoneType"),
        ((b"dog",), "must be text or an example, not bytes"),
        ("\udcff", "not valid text"),
    ],
)
def test_prompts_that_are_not_descriptions_are_refused(positive: object, reason: str) -> None:
    with pytest.raises(QueryError, match=reason) as raised:
        Query(positive=positive)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, InputError | SingleoutError | ValueError)


def test_negative_prompts_are_checked_too() -> None:
    with pytest.raises(QueryError, match="empty"):
        Query(positive=("a dog",), negative=(" ",))


def test_a_query_has_descriptions_examples_or_both() -> None:
    bark = Example("sounds/bark.wav")
    assert Query(bark).positive == (bark,)
    assert Query.of(bark) == Query((bark,))
    both = Query(("a  dog", bark), "traffic")
    assert both.positive == ("a dog", bark)
    assert both.negative == ("traffic",)
    assert str(both) == "a dog / like bark.wav (not traffic)"
    removal = Query(negative=("traffic", Example([0.0], 8_000)))
    assert removal.positive == ()
    assert str(removal) == "not traffic / like an example"
    assert Query((), "traffic") == Query(negative=("traffic",))
    with pytest.raises(QueryError, match="the query is empty: describe a sound"):
        Query()


def test_a_path_is_an_example() -> None:
    for query in (Query(Path("a/bark.wav")), Query.of(Path("a/bark.wav"))):
        (example,) = query.positive
        assert isinstance(example, Example)
        assert example.audio == Path("a/bark.wav")
        assert str(query) == "like bark.wav"
    (example,) = Query("a dog", negative=Path("hum.wav")).negative
    assert isinstance(example, Example)
    assert Query("bark.wav").positive == ("bark.wav",)  # text is never a path


def test_examples_are_equal_only_if_they_are_the_same_object() -> None:
    """Their audio is not compared."""
    one, other = Example("bark.wav"), Example("bark.wav")
    assert one != other
    assert Query((one,)) == Query((one,))
    assert Query((one,)) != Query((other,))
    assert len({Query((one,)), Query(one), Query((other,))}) == 2


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("bark.wav", "like bark.wav"),
        ("a/b/bark.wav", "like bark.wav"),
        ("two\nlines .wav", "like two lines .wav"),
        (os.fsdecode(b"caf\xe9.wav"), "like caf?.wav"),
        ("犬.wav", "like 犬.wav"),
    ],
)
def test_an_example_is_shown_as_the_name_of_its_file_in_one_line(name: str, shown: str) -> None:
    assert str(Example(name)) == str(Example(Path(name))) == shown
    assert str(Query(Path(name))).encode().decode() == shown


@given(st.text(max_size=1_200))
def test_any_text_is_a_query_or_is_refused(text: str) -> None:
    normalised = " ".join(text.split())
    if normalised and len(text) <= 1_000:
        assert Query(text).positive == (normalised,)
    else:
        with pytest.raises(QueryError) as raised:
            Query(text)
        assert "\n" not in str(raised.value)
