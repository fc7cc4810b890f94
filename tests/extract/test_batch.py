"""Many recordings: found, named, done, left out, interrupted; as a function and as a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from singleout import Extractor, Query
from singleout.cli import app
from singleout.errors import AudioError, OutputError
from singleout.extract.batch import (
    Job,
    JobResult,
    Source,
    find_recordings,
    plan_jobs,
    remaining_queries,
    run_jobs,
)
from singleout.extract.names import part_paths, query_slugs
from singleout.extract.options import OutputOptions
from tests.conftest import HEARS

RATE = 8_000
DOG, RAIN = Query("a dog"), Query("rain")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of processes")


def noise(num_samples: int = 4_000, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(0, 0.1, num_samples)
    return drawn.clip(-0.9, 0.9).astype(np.float32)


def recorded(path: Path, num_samples: int = 4_000, seed: int = 0) -> Path:
    """A good recording of 8 kHz, of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(num_samples, seed), RATE)
    return path


def touched(*paths: Path) -> None:
    """Files of which only the names matter."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def files_below(folder: Path) -> dict[str, bytes]:
    """Hidden ones, too."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


# Finding.


def test_a_folder_with_all_that_is_in_it(tmp_path: Path) -> None:
    wanted = ["A/c.flac", "A/deep/d.mp3", "b.wav", "e.WAV", "targets.wav", "two\nlines 🐕.m4a"]
    touched(*(tmp_path / name for name in wanted))
    touched(
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
    found = find_recordings([tmp_path])
    assert [each.path for each in found] == [tmp_path / name for name in wanted]
    assert [each.below for each in found] == [Path(name).parent for name in wanted]


def test_a_hidden_folder_may_be_named(tmp_path: Path) -> None:
    touched(tmp_path / ".cache" / "x.wav")
    assert find_recordings([tmp_path / ".cache"]) == [Source(tmp_path / ".cache" / "x.wav")]


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched(*(tmp_path / name for name in ("b.wav", "a.wav", "c.flac", "x/d.flac", "x/y/e.flac")))
    touched(tmp_path / "b.a-dog.target.wav", tmp_path / ".a.wav", tmp_path / "c.flac.txt")
    monkeypatch.chdir(tmp_path)
    assert find_recordings(["*.wav"]) == [Source(Path("a.wav")), Source(Path("b.wav"))]
    everywhere = [Path("c.flac"), Path("x/d.flac"), Path("x/y/e.flac")]
    assert [each.path for each in find_recordings(["**/*.flac"])] == everywhere
    absolute = find_recordings([tmp_path / "[ab].*"])
    assert [each.path for each in absolute] == [tmp_path / "a.wav", tmp_path / "b.wav"]


def test_a_name_with_brackets_is_taken_as_it_is(tmp_path: Path) -> None:
    literal = tmp_path / "[ab]*.wav"
    touched(literal, tmp_path / "a.wav", tmp_path / "[take 1]" / "b.wav")
    assert find_recordings([literal]) == [Source(literal)]
    assert find_recordings([tmp_path / "[take 1]"]) == [Source(tmp_path / "[take 1]" / "b.wav")]


def test_what_is_named_twice_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched(tmp_path / "a.wav", tmp_path / "b.wav")
    monkeypatch.chdir(tmp_path)
    places = [tmp_path / "b.wav", "b.wav", "./b.wav", tmp_path, "*.wav"]
    found = find_recordings(places)
    assert [each.path for each in found] == [tmp_path / "b.wav", tmp_path / "a.wav"]


def test_a_single_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """What a user names is tried, whatever its name; if there is no such file, reading says so."""
    odd = [tmp_path / ".hidden", tmp_path / "x.a-dog.target.wav", tmp_path / "notes.txt"]
    touched(*odd)
    missing = [tmp_path / "missing.wav", tmp_path / ("n" * 300)]
    assert [each.path for each in find_recordings([*odd, *missing])] == [*odd, *missing]


def test_places_without_recordings_are_refused(tmp_path: Path) -> None:
    touched(tmp_path / "some" / "notes.txt", tmp_path / "some" / "x.dog.target.wav")
    recorded(tmp_path / "good.wav")
    for place in (tmp_path / "some", tmp_path / "some" / "*.mp3"):
        with pytest.raises(AudioError, match="no recordings there") as raised:
            find_recordings([tmp_path / "good.wav", place])
        assert str(place) in str(raised.value)


# Naming.


def targets(tasks: Sequence[Job], queries: Sequence[Query]) -> list[Path]:
    slugs = query_slugs(queries)
    return [
        part_paths(OutputOptions(task.folder), task.name, slug, "wav").target
        for task in tasks
        for slug in slugs
    ]


def test_names_that_differ_in_case_alone_are_the_same_file_somewhere(tmp_path: Path) -> None:
    """On macOS and Windows, and so do accents in one character or two."""
    touched(tmp_path / "x.wav", tmp_path / "X.mp3")
    found = find_recordings([tmp_path])
    assert {task.name for task in plan_jobs(found, tmp_path / "out", [Query.of("a dog")])} == {
        "x.wav",
        "X.mp3",
    }
    for first, second in (("a/x.wav", "b/X.wav"), ("a/caf\u00e9.wav", "b/cafe\u0301.wav")):
        touched(tmp_path / first, tmp_path / second)
        found = find_recordings([tmp_path / first, tmp_path / second])
        with pytest.raises(OutputError, match="would become the same files"):
            plan_jobs(found, tmp_path / "out", [Query.of("a dog")])


def test_recordings_keep_their_place_and_name(tmp_path: Path) -> None:
    found = [
        Source(Path("in/a/x.wav"), Path("a")),
        Source(Path("in/x.wav")),
        Source(Path("in/y.mp3")),
    ]
    tasks = plan_jobs(found, tmp_path, [DOG])
    assert tasks == [
        Job(Path("in/a/x.wav"), tmp_path / "a", "x"),
        Job(Path("in/x.wav"), tmp_path, "x"),
        Job(Path("in/y.mp3"), tmp_path, "y"),
    ]


def test_the_same_name_with_another_suffix(tmp_path: Path) -> None:
    """Both keep their suffix, so that neither depends on which of them comes first."""
    found = [Source(Path("x.wav")), Source(Path("x.mp3")), Source(Path("y.wav"))]
    assert [task.name for task in plan_jobs(found, tmp_path, [DOG])] == ["x.wav", "x.mp3", "y"]


def test_the_same_name_from_two_folders_is_refused(tmp_path: Path) -> None:
    found = [Source(Path("a/x.wav")), Source(Path("b/x.wav"))]
    with pytest.raises(OutputError, match="would become the same files") as raised:
        plan_jobs(found, tmp_path, [DOG])
    assert all(str(each.path) in str(raised.value) for each in found)


def test_a_recording_that_is_the_output_of_another_is_refused(tmp_path: Path) -> None:
    touched(tmp_path / "x.wav", tmp_path / "x.a-dog.target.wav")
    found = find_recordings([tmp_path / "x.wav", tmp_path / "x.a-dog.target.wav"])
    with pytest.raises(OutputError, match="choose another output folder") as raised:
        plan_jobs(found, tmp_path, [RAIN, DOG])
    assert all(str(each.path) in str(raised.value) for each in found)
    assert len(plan_jobs(found, tmp_path, [RAIN])) == 2
    assert len(plan_jobs(found, tmp_path / "out", [DOG])) == 2
    # The same folder by another name.
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="choose another output folder"):
        plan_jobs(found, tmp_path / "link", [DOG])


def test_the_same_query_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'a dog' is given twice"):
        plan_jobs([Source(Path("x.wav"))], tmp_path, [DOG, RAIN, Query(" a  dog ")])


@settings(deadline=None, max_examples=60)
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
    asked=st.lists(
        st.sampled_from(["a dog", "a dog!", "A DOG", "rain", "犬", "猫"]),
        min_size=1,
        unique=True,
    ),
)
def test_every_file_has_a_name_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, paths: list[tuple[str, str, str]], asked: list[str]
) -> None:
    """Or the tasks are refused: nothing is overwritten by something of the same run."""
    found = [Source(Path("in", below, stem + end), Path(below)) for below, stem, end in paths]
    queries = [Query(text) for text in asked]
    try:
        tasks = plan_jobs(found, Path("out"), queries)
    except AudioError:
        assert any(stem == "x.wav" for _, stem, _ in paths)
        return
    files = targets(tasks, queries)
    assert len(set(files)) == len(files) == len(paths) * len(asked)
    assert [task.path for task in tasks] == [each.path for each in found]


# What is still to do.


def newer(path: Path, than: Path) -> None:
    later = than.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))


def done(
    extractor: Extractor, tasks: Sequence[Job], queries: Sequence[Query], **options: Any
) -> list[JobResult]:
    """All outcomes, none of them an error."""
    wanted = OutputOptions(Path(), **options)
    outcomes = list(run_jobs(extractor, tasks, queries, wanted))
    assert [outcome.error for outcome in outcomes] == [None] * len(tasks)
    return outcomes


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "ogg"])
def test_a_recording_is_extracted_again_when_it_is_newer(
    extractor: Extractor, tmp_path: Path, suffix: str
) -> None:
    path = recorded(tmp_path / f"x.{suffix}")
    tasks = plan_jobs([Source(path)], tmp_path / "out", [DOG, RAIN])
    wanted = OutputOptions(Path())
    assert remaining_queries(tasks[0], [DOG, RAIN], wanted) == [DOG, RAIN]
    done(extractor, tasks, [DOG, RAIN])
    assert remaining_queries(tasks[0], [DOG, RAIN], wanted) == []
    assert remaining_queries(tasks[0], [RAIN, Query("wind")], wanted) == [Query("wind")]
    newer(path, *(tmp_path / "out").glob("x.rain.target.*"))
    assert remaining_queries(tasks[0], [DOG, RAIN], wanted) == [DOG, RAIN]
    path.unlink()
    assert remaining_queries(tasks[0], [DOG, RAIN], wanted) == [DOG, RAIN]


def test_only_missing_queries_are_extracted(extractor: Extractor, tmp_path: Path) -> None:
    tasks = plan_jobs([Source(recorded(tmp_path / "x.wav"))], tmp_path, [DOG, RAIN])
    done(extractor, tasks, [RAIN])
    wanted = OutputOptions(Path())
    assert remaining_queries(tasks[0], [DOG, RAIN], wanted) == [DOG]
    before = files_below(tmp_path)
    (outcome,) = run_jobs(extractor, tasks, [DOG, RAIN], wanted, skip_existing=True)
    assert [written.query for written in outcome.written] == ["a dog"]
    assert outcome.skipped == [RAIN]
    after = files_below(tmp_path)
    assert sorted(set(after) - set(before)) == ["x.a-dog.residual.wav", "x.a-dog.target.wav"]
    assert after.items() >= before.items()


def test_files_count_for_a_run_that_wants_no_more_than_them(
    extractor: Extractor, tmp_path: Path
) -> None:
    tasks = plan_jobs([Source(recorded(tmp_path / "x.wav"))], tmp_path / "out", [DOG])
    done(extractor, tasks, [DOG], residual=False)

    def to_do(**options: Any) -> list[Query]:
        return remaining_queries(tasks[0], [DOG], OutputOptions(Path(), **options))

    assert to_do(residual=False) == []
    assert to_do() == [DOG]
    done(extractor, tasks, [DOG])
    assert to_do() == []
    assert to_do(residual=False) == []
    assert to_do(plot=True) == [DOG]
    assert to_do(format="wav") == []
    assert to_do(format="flac") == [DOG]
    # A target without its residual is half of the work.
    (tmp_path / "out" / "x.a-dog.residual.wav").unlink()
    assert to_do() == [DOG]


def test_alike_queries_keep_their_names_when_one_is_done_again(
    extractor: Extractor, tmp_path: Path
) -> None:
    """Alone, 'a dog!' would be written as 'a-dog', and would never be done."""
    alike = [DOG, Query("a dog!"), RAIN]
    tasks = plan_jobs([Source(recorded(tmp_path / "x.wav"))], tmp_path / "out", alike)
    (outcome,) = done(extractor, tasks, alike)
    assert len({written.target for written in outcome.written}) == 3
    before = files_below(tmp_path / "out")
    outcome.written[1].target.unlink()
    wanted = OutputOptions(Path())
    (again,) = run_jobs(extractor, tasks, alike, wanted, skip_existing=True)
    assert again.skipped == [RAIN]
    assert files_below(tmp_path / "out") == before
    assert remaining_queries(tasks[0], alike, wanted) == []


# Doing.


def test_a_bad_recording_is_an_outcome(extractor: Extractor, tmp_path: Path) -> None:
    good = [recorded(tmp_path / f"{number}.wav", seed=number) for number in range(3)]
    good[1].write_text("this is no sound")
    found = find_recordings([*good, tmp_path / "missing.wav"])
    tasks = plan_jobs(found, tmp_path / "out", [DOG])
    shares: dict[Path, list[float]] = {}
    outcomes = list(
        run_jobs(
            extractor,
            tasks,
            [DOG],
            OutputOptions(Path()),
            progress=lambda task, share: shares.setdefault(task.path, []).append(share),
        )
    )
    by_path = {outcome.job.path: outcome for outcome in outcomes}
    assert set(by_path) == {each.path for each in found}
    for path, reason in ((good[1], "cannot be read as audio"), (found[3].path, "no such file")):
        outcome = by_path[path]
        assert outcome.error is not None
        assert str(path) in outcome.error
        assert reason in outcome.error
        assert outcome.written == outcome.skipped == []
    for path in (good[0], good[2]):
        assert by_path[path].error is None
        assert by_path[path].written[0].target.is_file()
        assert shares[path] == sorted(shares[path])
        assert (shares[path][0], shares[path][-1]) == (0, 1)
    assert len(files_below(tmp_path / "out")) == 4


def test_jobs_change_nothing(extractor: Extractor, tmp_path: Path) -> None:
    for number in range(7):
        recorded(tmp_path / "in" / f"{number}.wav", 3_000 + 2_000 * number, seed=number)
    (tmp_path / "in" / "3.wav").write_bytes(b"")
    found = find_recordings([tmp_path / "in"])
    results = []
    for num_jobs in (1, 3):
        out = tmp_path / f"out-{num_jobs}"
        outcomes = list(
            run_jobs(
                extractor,
                plan_jobs(found, out, [DOG, RAIN]),
                [DOG, RAIN],
                OutputOptions(Path()),
                num_jobs=num_jobs,
            )
        )
        assert len(outcomes) == 7
        assert [o.job.path.name for o in outcomes if o.error is not None] == ["3.wav"]
        results.append(files_below(out))
    assert len(results[0]) == 6 * 4
    assert results[0] == results[1]


@pytest.mark.parametrize("num_jobs", [1, 3])
def test_stopping_early_leaves_nothing_half_written(
    extractor: Extractor, tmp_path: Path, num_jobs: int
) -> None:
    recorded(tmp_path / "in" / "a.wav")
    for number in range(8):
        recorded(tmp_path / "in" / f"b{number}.wav", 40 * RATE, seed=number)
    tasks = plan_jobs(find_recordings([tmp_path / "in"]), tmp_path / "out", [DOG])
    batch: Any = run_jobs(extractor, tasks, [DOG], OutputOptions(Path()), num_jobs=num_jobs)
    first = next(batch)
    assert first.error is None
    batch.close()
    assert first.job.name == "a"
    # Nor were the long ones, of many chunks, worked on to their end.
    left = sorted(files_below(tmp_path / "out"))
    assert left == ["a.a-dog.residual.wav", "a.a-dog.target.wav"]


def test_an_unknown_error_is_not_hidden(extractor: Extractor, tmp_path: Path) -> None:
    """A defect of ours is no outcome: it ends the batch, and its files vanish."""
    tasks = plan_jobs([Source(recorded(tmp_path / "x.wav"))], tmp_path / "out", [DOG])

    def fail(_: Job, share: float) -> None:
        if share:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run_jobs(extractor, tasks, [DOG], OutputOptions(Path()), progress=fail))
    assert files_below(tmp_path / "out") == {}


def test_a_recording_that_needs_too_much_memory_is_an_outcome(
    extractor: Extractor, tmp_path: Path
) -> None:
    """Of torch, too, whose error is not Python's."""
    paths = [recorded(tmp_path / name) for name in ("x.wav", "y.wav", "z.wav")]
    tasks = plan_jobs([Source(path) for path in paths], tmp_path / "out", [DOG])

    def need(task: Job, share: float) -> None:
        if share and task.name == "x":
            torch.empty(10**15)
        if share and task.name == "y":
            raise MemoryError

    found = list(run_jobs(extractor, tasks, [DOG], OutputOptions(Path()), progress=need))
    errors = {outcome.job.name: outcome.error for outcome in found}
    assert errors["z"] is None
    for name in ("x", "y"):
        error = errors[name]
        assert error is not None
        assert error.startswith(f"{tmp_path / name}.wav: cannot be separated: ")
        assert "\n" not in error
    assert sorted(files_below(tmp_path / "out")) == ["z.a-dog.residual.wav", "z.a-dog.target.wav"]


# The command line.


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["extract", *map(str, arguments)])


def write_video_without_sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


NOT_AUDIO = "two\nlines 🐕.wav"
BAD = {
    "cut.mp3": "truncated",
    "empty.wav": "is empty",
    "nan.wav": "NaN or infinite",
    "pictures.mp4": "has no sound, only pictures",
    "text.wav": "cannot be read as audio",
    NOT_AUDIO: "cannot be read as audio",
}


def write_bad(folder: Path) -> list[Path]:
    """One of every kind in ``BAD``."""
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / "cut.mp3", noise(20_000), RATE)
    whole = (folder / "cut.mp3").read_bytes()
    (folder / "cut.mp3").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.wav").write_bytes(b"")
    audio = noise()
    audio[77] = np.nan
    soundfile.write(folder / "nan.wav", audio, RATE, subtype="FLOAT")
    write_video_without_sound(folder / "pictures.mp4")
    for name in ("text.wav", NOT_AUDIO):
        (folder / name).write_text("this is no sound\n" * 100)
    return [folder / name for name in BAD]


def test_a_folder_in_and_its_mirror_out(tmp_path: Path, debug_model_folder: Path) -> None:
    recordings = ["b.wav", "A/c.flac", "A/deep/d.wav", "b.flac"]
    for seed, name in enumerate(recordings):
        recorded(tmp_path / "in" / name, seed=seed)
    out = tmp_path / "in" / "parts"
    result = run(tmp_path / "in", "a dog", "-o", out, "--model", debug_model_folder)
    assert result.exit_code == 0, result.output
    stems = {"A/c": "flac", "A/deep/d": "wav", "b.flac": "flac", "b.wav": "wav"}
    expected = sorted(
        f"{stem}.a-dog.{part}.{end}"
        for stem, end in stems.items()
        for part in ("target", "residual")
    )
    assert sorted(files_below(out)) == expected
    assert all(str(out / name) in result.stdout for name in expected)
    assert result.stderr == "4 done, 0 skipped, 0 failed\n"
    # What is written below the input is no recording of the next run.
    before = files_below(out)
    again = run(tmp_path / "in", "a dog", "-o", out, "--model", debug_model_folder)
    assert again.stderr == "4 done, 0 skipped, 0 failed\n"
    assert files_below(out) == before


def test_bad_recordings_among_good_ones(tmp_path: Path, debug_model_folder: Path) -> None:
    bad = write_bad(tmp_path / "in")
    recorded(tmp_path / "in" / "good 🐈\n.wav")
    recorded(tmp_path / "in" / "one.wav", num_samples=1)
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    result = run(tmp_path / "in", "a dog", *options)
    assert result.exit_code == 3, result.output
    *errors, summary = result.stderr.splitlines()
    assert summary == f"2 done, 0 skipped, {len(bad)} failed"
    assert len(errors) == len(bad)
    for path in bad:
        shown = str(path).replace("\n", r"\n")
        (line,) = [line for line in errors if f"{shown}: " in line]
        assert line.startswith("error: ")
        assert BAD[path.name] in line
    assert sorted(files_below(tmp_path / "out")) == [
        "good 🐈\n.a-dog.residual.wav",
        "good 🐈\n.a-dog.target.wav",
        "one.a-dog.residual.wav",
        "one.a-dog.target.wav",
    ]
    assert len(result.stdout.splitlines()) == 2 * 3
    one = soundfile.info(tmp_path / "out" / "one.a-dog.target.wav")
    assert one.frames == 1


def test_all_recordings_bad(tmp_path: Path, debug_model_folder: Path) -> None:
    touched(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"")
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    result = run(tmp_path / "*.wav", tmp_path / "c.wav", "-q", "a dog", *options)
    assert result.exit_code == 1
    assert [line[:7] for line in result.stderr.splitlines()[:-1]] == ["error: "] * 3
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_json_and_report_are_the_same_lines(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed, name in enumerate(("a.wav", "c.wav")):
        recorded(tmp_path / "in" / name, seed=seed)
    bad = tmp_path / "in" / NOT_AUDIO
    bad.write_text("no sound")
    report = tmp_path / "new" / "report.jsonl"
    options = ("-o", tmp_path / "out", "--model", debug_model_folder, "--report", report)
    queries = ("-q", "a dog", "--query", "Rain, heavy")
    result = run(tmp_path / "in", *queries, *options, "--json")
    assert result.exit_code == 3, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [json.loads(line) for line in report.read_text().splitlines()] == lines
    assert len(lines) == 3 * 2
    errors = [line for line in lines if "error" in line]
    assert [line["query"] for line in errors] == ["a dog", "Rain, heavy"]
    for error in errors:
        assert set(error) == {"input", "query", "error"}
        assert error["input"] == str(bad)
        assert "cannot be read as audio" in error["error"]
        assert "\n" not in error["error"]
    for line in (line for line in lines if "error" not in line):
        assert Path(line["input"]).is_file()
        assert line["query"] in ("a dog", "Rain, heavy")
        slug = {"a dog": "a-dog", "Rain, heavy": "rain-heavy"}[line["query"]]
        stem = tmp_path / "out" / Path(line["input"]).stem
        assert line["target"] == f"{stem}.{slug}.target.wav"
        assert line["residual"] == f"{stem}.{slug}.residual.wav"
        assert Path(line["target"]).is_file()
        assert Path(line["residual"]).is_file()
        assert line["seconds"] == 0.5
        assert line["wall_seconds"] > 0

    # Those that were skipped are told, too; and a report without --json.
    report.unlink()
    again = run(tmp_path / "in", *queries, *options, "--skip-existing")
    assert again.exit_code == 3
    assert again.stderr.endswith("0 done, 2 skipped, 1 failed\n")
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert sum(line.get("skipped", False) for line in lines) == 4
    assert sum("error" in line for line in lines) == 2
    with pytest.raises(json.JSONDecodeError):
        json.loads(again.stdout.splitlines()[0])

    # Going on adds to what the report says already; starting again does not.
    run(tmp_path / "in", *queries, *options, "--skip-existing")
    assert len(report.read_text().splitlines()) == 2 * len(lines)
    run(tmp_path / "in", *queries, *options)
    assert len(report.read_text().splitlines()) == len(lines)


def test_a_report_that_cannot_be_written(tmp_path: Path, debug_model_folder: Path) -> None:
    recorded(tmp_path / "a.wav")
    model = ("-o", tmp_path / "out", "--model", debug_model_folder)
    for report in (tmp_path, tmp_path / "a.wav" / "report"):
        result = run(tmp_path / "a.wav", "a dog", *model, "--report", report)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
    assert not (tmp_path / "out").exists()
    before = (tmp_path / "a.wav").read_bytes()
    result = run(tmp_path / "a.wav", "a dog", *model, "--report", tmp_path / "a.wav")
    assert result.stderr == (
        f"error: {tmp_path / 'a.wav'}: would overwrite {tmp_path / 'a.wav'}: choose another file\n"
    )
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_report_on_a_full_disk(tmp_path: Path, debug_model_folder: Path) -> None:
    for name in ("a.wav", "b.wav"):
        recorded(tmp_path / name)
    options = ("-o", tmp_path / "out", "--model", debug_model_folder, "--report", "/dev/full")
    result = run(tmp_path / "a.wav", tmp_path / "b.wav", "a dog", *options)
    assert result.exit_code == 1
    assert result.stderr == "error: /dev/full: cannot be written: No space left on device\n"


def test_a_single_bad_recording_is_in_the_report(tmp_path: Path, debug_model_folder: Path) -> None:
    report = tmp_path / "report.jsonl"
    options = ("--model", debug_model_folder, "--report", report)
    result = run(tmp_path / "missing.wav", "a dog", "-o", tmp_path, *options)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line == f"error: {tmp_path / 'missing.wav'}: no such file"
    assert json.loads(report.read_text())["error"] in line


def test_skip_existing_extracts_what_is_missing(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed in range(3):
        recorded(tmp_path / "in" / f"{seed}.wav", seed=seed)
    out = tmp_path / "out"

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    def again() -> Result:
        queries = ("-q", "a dog", "-q", "rain")
        model = ("--model", debug_model_folder)
        result = run(tmp_path / "in", *queries, "-o", out, *model, "--skip-existing")
        assert result.exit_code == 0, result.output
        return result

    assert again().stderr == "3 done, 0 skipped, 0 failed\n"
    before, contents = times(), files_below(out)
    assert len(before) == 12
    result = again()
    assert result.stderr == "0 done, 3 skipped, 0 failed\n"
    assert result.stdout.count("skipped, its files exist") == 6
    assert times() == before

    (out / "1.rain.residual.wav").unlink()
    result = again()
    assert result.stderr == "1 done, 2 skipped, 0 failed\n"
    assert files_below(out) == contents
    changed = {name for name, time in times().items() if time != before[name]}
    assert changed == {"1.rain.residual.wav", "1.rain.target.wav"}


def test_jobs_and_format(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed in range(4):
        recorded(tmp_path / "in" / f"{seed}.wav", seed=seed)
    results = []
    for jobs in (1, 2):
        out = tmp_path / f"out-{jobs}"
        options = ("--model", debug_model_folder, "--format", "flac", "--jobs", jobs)
        result = run(tmp_path / "in", "a dog", "-o", out, *options)
        assert result.exit_code == 0, result.output
        assert result.stderr == "4 done, 0 skipped, 0 failed\n"
        results.append(files_below(out))
    assert results[0] == results[1]
    assert len(results[0]) == 8
    assert all(content.startswith(b"fLaC") for content in results[0].values())


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (("--format", "nonsense"), 1, "one of auto, wav, flac, aiff, ogg, mp3"),
        (("--device", "nonsense"), 1, "device 'nonsense' cannot be used"),
        (("-q", "A  dog", "-q", "A dog"), 1, "given twice"),
        (("-q", ""), 1, "empty"),
        (("--jobs", "0"), 2, "--jobs"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    tmp_path: Path,
    debug_model_folder: Path,
    options: tuple[str, ...],
    code: int,
    reason: str,
) -> None:
    recorded(tmp_path / "in" / "x.wav")
    places = (tmp_path / "in",) if "-q" in options else (tmp_path / "in", "a dog")
    result = run(*places, "-o", tmp_path / "out", "--model", debug_model_folder, *options)
    assert result.exit_code == code
    assert reason in result.stderr
    if code == 1:
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_refusals_of_many_recordings_are_one_line(tmp_path: Path) -> None:
    recorded(tmp_path / "a" / "x\n.wav")
    recorded(tmp_path / "b" / "x\n.wav")
    (tmp_path / "none").mkdir()
    for places, reason in (
        ((tmp_path / "a", tmp_path / "b"), "would become the same files"),
        ((tmp_path / "a", tmp_path / "none"), "no recordings there"),
    ):
        result = run(*places, "a dog", "-o", tmp_path / "out")
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert reason in line
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that not even root can write")
def test_a_folder_that_cannot_be_written(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed in range(2):
        recorded(tmp_path / "in" / f"{seed}.wav", seed=seed)
    out = "/proc/singleout/out"
    result = run(tmp_path / "in", "a dog", "-o", out, "--model", debug_model_folder)
    assert result.exit_code == 1
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert 1 <= len(errors) <= 2
    assert all("/proc" in line and "cannot be" in line for line in errors)


# As users run it.


def process(*arguments: object, before: str = "") -> list[str]:
    """The real command."""
    one_thread = "import torch; torch.set_num_threads(1); "
    code = f"{HEARS}{one_thread}{before}from singleout.cli import main; main()"
    return [sys.executable, "-c", code, "extract", *map(str, arguments)]


@posix
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, debug_model_folder: Path) -> None:
    for seed in range(3):
        recorded(tmp_path / "in" / f"{seed}.wav", 20_000, seed)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999)); "
    options = ("-o", tmp_path / "out", "--model", debug_model_folder, "--jobs", "2")
    full = subprocess.run(
        process(tmp_path / "in", "a dog", *options, before=limited), capture_output=True, text=True
    )
    assert full.returncode == 1, full.stderr
    *errors, summary = full.stderr.splitlines()
    assert summary == "0 done, 0 skipped, 3 failed"
    assert len(errors) == 3
    assert all(line.startswith("error: ") and "File too large" in line for line in errors)
    assert files_below(tmp_path / "out") == {}


@posix
@pytest.mark.parametrize(
    ("sent", "code", "jobs"),
    [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1), (signal.SIGHUP, 129, 1)],
)
def test_a_signal_in_the_middle_of_a_batch(
    tmp_path: Path, debug_model_folder: Path, sent: signal.Signals, code: int, jobs: int
) -> None:
    """What is done stays, what is half-written vanishes, and the rest is still to do."""
    recorded(tmp_path / "in" / "a.wav")
    long = recorded(tmp_path / "in" / "b0.wav", 120 * RATE)
    for number in range(1, 60):
        (tmp_path / "in" / f"b{number}.wav").symlink_to(long)
    out = tmp_path / "out"
    first = [out / f"a.a-dog.{part}.wav" for part in ("target", "residual")]
    options = ("-o", out, "--model", debug_model_folder, "--jobs", jobs)
    with subprocess.Popen(
        process(tmp_path / "in", "a dog", *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            give_up = monotonic() + 120
            while not all(path.exists() for path in first):
                assert running.poll() is None, running.communicate()[1]
                assert monotonic() < give_up
                sleep(0.02)
            running.send_signal(sent)
            stderr = running.communicate(timeout=120)[1]
        finally:
            running.kill()
    assert running.returncode == code, stderr
    assert "Traceback" not in stderr
    left = files_below(out)
    assert not [name for name in left if "partial" in name]
    assert {path.name for path in first} <= set(left)
    assert len(left) % 2 == 0
    assert len(left) < 2 * 61
    if sent == signal.SIGINT:
        told, interrupted = stderr.splitlines()
        assert "of 61 recordings done" in told
        assert "--skip-existing" in told
        assert interrupted == "interrupted"
