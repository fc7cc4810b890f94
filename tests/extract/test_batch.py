"""Recordings of a batch: which files a place means, and how their outputs are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout import Query
from singleout.errors import AudioError, OutputError
from singleout.extract.batch import (
    Job,
    plan_jobs,
)
from singleout.extract.names import part_paths, query_slugs
from singleout.extract.options import OutputOptions
from singleout.extract.recordings import Source, find_recordings
from tests.recordings import write_short_recording

DOG, RAIN = Query("a dog"), Query("rain")


def write_placeholders(*paths: Path) -> None:
    """Write files whose content does not matter."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_folder_gives_the_recordings_in_it(tmp_path: Path) -> None:
    recordings = ["A/c.flac", "A/deep/d.mp3", "b.wav", "e.WAV", "targets.wav", "two\nlines 🐕.m4a"]
    write_placeholders(*(tmp_path / name for name in recordings))
    write_placeholders(
        tmp_path / ".hidden.wav",
        tmp_path / ".trash" / "x.wav",
        tmp_path / "A" / "._c.flac",
        tmp_path / "b.a-dog.target.wav",
        tmp_path / "b.a-dog.residual.flac",
        tmp_path / "b.a-dog.png",
        tmp_path / "notes.txt",
        tmp_path / "wav",
    )
    (tmp_path / "folder.wav").mkdir()
    sources = find_recordings([tmp_path])
    assert [each.path for each in sources] == [tmp_path / name for name in recordings]
    assert [each.below for each in sources] == [Path(name).parent for name in recordings]


def test_a_hidden_folder_may_be_named(tmp_path: Path) -> None:
    write_placeholders(tmp_path / ".cache" / "x.wav")
    assert find_recordings([tmp_path / ".cache"]) == [Source(tmp_path / ".cache" / "x.wav")]


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_placeholders(
        *(tmp_path / name for name in ("b.wav", "a.wav", "c.flac", "x/d.flac", "x/y/e.flac"))
    )
    write_placeholders(
        tmp_path / "b.a-dog.target.wav", tmp_path / ".a.wav", tmp_path / "c.flac.txt"
    )
    monkeypatch.chdir(tmp_path)
    assert find_recordings(["*.wav"]) == [Source(Path("a.wav")), Source(Path("b.wav"))]
    everywhere = [Path("c.flac"), Path("x/d.flac"), Path("x/y/e.flac")]
    assert [each.path for each in find_recordings(["**/*.flac"])] == everywhere
    absolute = find_recordings([tmp_path / "[ab].*"])
    assert [each.path for each in absolute] == [tmp_path / "a.wav", tmp_path / "b.wav"]


def test_a_name_with_brackets_is_taken_as_it_is(tmp_path: Path) -> None:
    literal = tmp_path / "[ab]*.wav"
    write_placeholders(literal, tmp_path / "a.wav", tmp_path / "[take 1]" / "b.wav")
    assert find_recordings([literal]) == [Source(literal)]
    assert find_recordings([tmp_path / "[take 1]"]) == [Source(tmp_path / "[take 1]" / "b.wav")]


def test_a_recording_named_twice_is_extracted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_placeholders(tmp_path / "a.wav", tmp_path / "b.wav")
    monkeypatch.chdir(tmp_path)
    places: list[str | Path] = [tmp_path / "b.wav", "b.wav", "./b.wav", tmp_path, "*.wav"]
    sources = find_recordings(places)
    assert [each.path for each in sources] == [tmp_path / "b.wav", tmp_path / "a.wav"]


def test_a_single_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """A file that a user names is tried, whatever its suffix. Reading refuses a missing file."""
    odd = [tmp_path / ".hidden", tmp_path / "x.a-dog.target.wav", tmp_path / "notes.txt"]
    write_placeholders(*odd)
    missing = [tmp_path / "missing.wav", tmp_path / ("n" * 300)]
    assert [each.path for each in find_recordings([*odd, *missing])] == [*odd, *missing]


def test_places_without_recordings_are_refused(tmp_path: Path) -> None:
    write_placeholders(tmp_path / "some" / "notes.txt", tmp_path / "some" / "x.dog.target.wav")
    write_short_recording(tmp_path / "good.wav")
    for place in (tmp_path / "some", tmp_path / "some" / "*.mp3"):
        with pytest.raises(AudioError, match="no recordings there") as raised:
            find_recordings([tmp_path / "good.wav", place])
        assert str(place) in str(raised.value)


def target_paths(jobs: Sequence[Job], queries: Sequence[Query]) -> list[Path]:
    """The target file of every job and query."""
    slugs = query_slugs(queries)
    return [
        part_paths(OutputOptions(job.folder), job.name, slug, "wav").target
        for job in jobs
        for slug in slugs
    ]


def test_names_that_differ_only_in_case_count_as_the_same(tmp_path: Path) -> None:
    """macOS and Windows ignore case, and the two encodings of an accented letter."""
    write_placeholders(tmp_path / "x.wav", tmp_path / "X.mp3")
    sources = find_recordings([tmp_path])
    assert {job.name for job in plan_jobs(sources, tmp_path / "out", [Query.of("a dog")])} == {
        "x.wav",
        "X.mp3",
    }
    for first, second in (("a/x.wav", "b/X.wav"), ("a/caf\u00e9.wav", "b/cafe\u0301.wav")):
        write_placeholders(tmp_path / first, tmp_path / second)
        sources = find_recordings([tmp_path / first, tmp_path / second])
        with pytest.raises(OutputError, match="would become the same files"):
            plan_jobs(sources, tmp_path / "out", [Query.of("a dog")])


def test_recordings_keep_their_place_and_name(tmp_path: Path) -> None:
    sources = [
        Source(Path("in/a/x.wav"), Path("a")),
        Source(Path("in/x.wav")),
        Source(Path("in/y.mp3")),
    ]
    jobs = plan_jobs(sources, tmp_path, [DOG])
    assert jobs == [
        Job(Path("in/a/x.wav"), tmp_path / "a", "x"),
        Job(Path("in/x.wav"), tmp_path, "x"),
        Job(Path("in/y.mp3"), tmp_path, "y"),
    ]


def test_the_same_name_with_another_suffix(tmp_path: Path) -> None:
    """Both keep their suffix, so that neither depends on which of them comes first."""
    sources = [Source(Path("x.wav")), Source(Path("x.mp3")), Source(Path("y.wav"))]
    assert [job.name for job in plan_jobs(sources, tmp_path, [DOG])] == ["x.wav", "x.mp3", "y"]


def test_the_same_name_from_two_folders_is_refused(tmp_path: Path) -> None:
    sources = [Source(Path("a/x.wav")), Source(Path("b/x.wav"))]
    with pytest.raises(OutputError, match="would become the same files") as raised:
        plan_jobs(sources, tmp_path, [DOG])
    assert all(str(each.path) in str(raised.value) for each in sources)


def test_a_recording_that_is_the_output_of_another_is_refused(tmp_path: Path) -> None:
    write_placeholders(tmp_path / "x.wav", tmp_path / "x.a-dog.target.wav")
    sources = find_recordings([tmp_path / "x.wav", tmp_path / "x.a-dog.target.wav"])
    with pytest.raises(OutputError, match="choose another output folder") as raised:
        plan_jobs(sources, tmp_path, [RAIN, DOG])
    assert all(str(each.path) in str(raised.value) for each in sources)
    assert len(plan_jobs(sources, tmp_path, [RAIN])) == 2
    assert len(plan_jobs(sources, tmp_path / "out", [DOG])) == 2
    # A symbolic link is the same folder under another name.
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="choose another output folder"):
        plan_jobs(sources, tmp_path / "link", [DOG])


def test_the_same_query_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'a dog' is given twice"):
        plan_jobs([Source(Path("x.wav"))], tmp_path, [DOG, RAIN, Query(" a  dog ")])


@settings(max_examples=60)
@given(
    paths=st.lists(
        st.tuples(
            st.sampled_from(["", "a", "b"]),
            st.sampled_from(["x", "x.wav", "y", "x.a-dog"]),
            st.sampled_from([".wav", ".mp3", ".flac"]),
        ),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    texts=st.lists(
        st.sampled_from(["a dog", "a dog!", "A DOG", "rain", "犬", "猫"]),
        min_size=1,
        unique=True,
    ),
)
def test_no_two_output_files_have_one_name(
    tmp_path_factory: pytest.TempPathFactory, paths: list[tuple[str, str, str]], texts: list[str]
) -> None:
    """Either the plan is refused, or no file of a run overwrites another of the same run."""
    sources = [Source(Path("in", below, stem + end), Path(below)) for below, stem, end in paths]
    queries = [Query(text) for text in texts]
    try:
        jobs = plan_jobs(sources, Path("out"), queries)
    except OutputError:
        assert any(stem == "x.wav" for _, stem, _ in paths)
        return
    files = target_paths(jobs, queries)
    assert len(set(files)) == len(files) == len(paths) * len(texts)
    assert [job.path for job in jobs] == [each.path for each in sources]
