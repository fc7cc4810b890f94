"""Names of output files: safe for file systems, and different for different queries."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from singleout import Example, Extractor, Query
from singleout.errors import OutputError
from singleout.extract.names import query_slug, query_slugs
from tests.recordings import RATE, file_names, noise, write_recording

BARK, HUM = (Example(noise(9_000, seed=seed)[0], RATE) for seed in (1, 2))


def test_queries_of_the_same_name_have_different_files(
    calibrated_extractor: Extractor, tmp_path: Path
) -> None:
    """Two examples are named by their files, which may have one name in two folders."""
    path = write_recording(tmp_path / "x.wav", noise(9_000), subtype="FLOAT")
    one, two = (
        Example(write_recording(tmp_path / folder / "bark.wav", noise(9_000, seed=seed)))
        for seed, folder in enumerate("ab", 1)
    )
    queries: list[str | Example | Query] = [
        one,
        "like bark!wav",
        two,
        BARK,
        HUM,
        Query(("a", "b")),
        Query("a / b"),
    ]
    written = calibrated_extractor.extract_file(path, queries, tmp_path / "out")
    assert len({each.target for each in written}) == len(queries)
    assert file_names(tmp_path / "out") == sorted(
        part.name  # type: ignore[union-attr]
        for each in written
        for part in (each.target, each.residual)
    )
    for query, each in zip(queries, written, strict=True):
        target, _ = soundfile.read(each.target, dtype="float32")
        expected = calibrated_extractor.extract(path, query).target[0]
        np.testing.assert_allclose(target, expected, rtol=0, atol=1e-6)
    with pytest.raises(OutputError, match=r"'like bark\.wav' is given twice"):
        calibrated_extractor.extract_file(path, [one, two, one], tmp_path / "out")


@given(
    kinds=st.lists(st.sampled_from(["a / b", "a", "like x", "one", "two"]), max_size=6, unique=True)
)
def test_names_of_queries_are_never_the_same(kinds: list[str]) -> None:
    examples = {"one": Example("in/x"), "two": Example("out/x")}
    queries = [Query.of(examples.get(kind, kind)) for kind in kinds]
    queries += [Query(("a", "b")), Query(Example("elsewhere/x"))]
    slugs = query_slugs(queries)
    assert len(set(slugs)) == len(queries)
    assert slugs == query_slugs(queries)
    assert all(set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for slug in slugs)


def test_the_name_of_a_removal_says_not(calibrated_extractor: Extractor, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x.wav", noise(9_000))
    queries = [Query((), "rain"), Query("a dog", ("rain", BARK))]
    written = calibrated_extractor.extract_file(path, queries, tmp_path / "out", residual=False)
    assert [each.query for each in written] == [
        "not rain",
        "a dog (not rain / like an example)",
    ]
    first, second = file_names(tmp_path / "out")
    assert re.fullmatch(r"x\.a-dog-not-rain-like-an-example-[0-9a-f]{8}\.target\.wav", first)
    assert re.fullmatch(r"x\.not-rain-[0-9a-f]{8}\.target\.wav", second)


def test_queries_that_read_alike_have_different_names() -> None:
    """A negative prompt reads like a text with "not", and all arrays read alike."""
    loud, soft = (Example(np.full(800, level, np.float32), 8_000) for level in (0.5, 0.1))
    queries = [
        Query("not traffic"),
        Query((), "traffic"),
        Query("a voice not traffic"),
        Query("a voice", "traffic"),
        Query(("a voice / traffic",)),
        Query(("a voice", "traffic")),
        Query((), ("a", "b")),
        Query((), "a / b"),
        Query.of(loud),
        Query.of(soft),
        Query.of(Example(loud.audio, 16_000)),
    ]
    assert len({query_slug(query) for query in queries}) == len(queries)
    assert query_slug(queries[0]) == "not-traffic"
    assert query_slug(Query.of(Example(np.full(800, 0.5, np.float32), 8_000))) == query_slug(
        queries[8]
    )


@given(st.text(st.characters(codec="utf-8"), max_size=150).filter(lambda text: text.strip()))
def test_slugs_are_safe_file_names(text: str) -> None:
    query = Query(text)
    slug = query_slug(query)
    assert 1 <= len(slug) <= 60
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not slug.startswith("-")
    assert not slug.endswith("-")
    assert slug == query_slug(query)


def test_slugs() -> None:
    def slug(query: str | Path) -> str:
        return query_slug(Query.of(query))

    assert slug("A dog, barking!") == "a-dog-barking"
    assert slug("Café / Über") == "cafe-uber"
    assert slug("犬") != slug("猫")
    assert re.fullmatch(r"(word-){10}[0-9a-f]{8}", slug("word " * 30))
    assert re.fullmatch(r"x{51}-[0-9a-f]{8}", slug("x" * 100))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C++ noise", "c noise"),
        ("a dog " * 20 + "in a village", "a dog " * 20 + "in a city"),
        (Path("dogs/1.wav"), Path("rain/1.wav")),
        ("a dog 犬", "a dog 猫"),
    ],
)
def test_a_similar_query_has_a_different_name(one: str | Path, other: str | Path) -> None:
    slugs = [query_slug(Query.of(query)) for query in (one, other)]
    assert slugs[0] != slugs[1]
    assert slugs == [query_slug(Query.of(query)) for query in (one, other)]
