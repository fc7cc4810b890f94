"""The nouns of the public API and its lock."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import singleout
from singleout import Query
from singleout.errors import InputError, QueryError, SingleoutError


def test_public_surface_is_locked() -> None:
    assert singleout.__all__ == ["Example", "Extraction", "Extractor", "Query"]
    for name in singleout.__all__:
        assert hasattr(singleout, name)
        assert name in dir(singleout)
    with pytest.raises(AttributeError, match="no attribute 'Extractr'"):
        _ = singleout.Extractr


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


def test_white_space_is_normalised_and_queries_hash() -> None:
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
        (None, "must be text or an example, not NoneType"),
        ((b"dog",), "must be text or an example, not bytes"),
        ("\udcff", "not valid text"),
    ],
)
def test_bad_queries(positive: object, reason: str) -> None:
    with pytest.raises(QueryError, match=reason) as raised:
        Query(positive=positive)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, InputError | SingleoutError | ValueError)


def test_negative_prompts_are_checked_too() -> None:
    with pytest.raises(QueryError, match="empty"):
        Query(positive=("a dog",), negative=(" ",))


@given(st.text(max_size=1_200))
def test_any_text_is_a_query_or_a_clear_refusal(text: str) -> None:
    normalised = " ".join(text.split())
    if normalised and len(text) <= 1_000:
        assert Query(text).positive == (normalised,)
    else:
        with pytest.raises(QueryError) as raised:
            Query(text)
        assert "\n" not in str(raised.value)
