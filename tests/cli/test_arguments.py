"""Options and arguments of ``singleout extract``: queries, recordings, names of files."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import Result

from singleout import ExtractOptions, Extractor, Query
from singleout.cli.extract import extract as command
from tests.cli.commands import check_refused, extract, run
from tests.recordings import file_names, noise, write_recording


@pytest.fixture
def bark(tmp_path: Path) -> Path:
    """A recording that serves as an example."""
    return write_recording(tmp_path / "sounds" / "bark.wav", noise(9_000, seed=1))


def test_the_command_has_the_defaults_of_python() -> None:
    parameters = inspect.signature(command).parameters
    options = asdict(ExtractOptions())
    assert {name: parameters[name].default for name in options} == options


def test_help_has_a_short_name() -> None:
    for arguments in ((), ("extract",), ("train",), ("formats",)):
        short, long = (run(*arguments, option) for option in ("-h", "--help"))
        assert (short.exit_code, short.stdout) == (0, long.stdout)
        assert "-h, --help" in short.stdout


def successful_queries(result: Result) -> list[str]:
    """The query of each line of ``--json``; every line has a target and a valid presence."""
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for line in lines:  # a query without a positive side has no presence
        is_removal = line["query"].startswith("not ")
        assert line["presence"] is None if is_removal else 0 <= line["presence"] <= 1
    assert all(Path(line["target"]).is_file() for line in lines)
    return [line["query"] for line in lines]


def test_options_and_arguments_make_queries(
    street: Path,
    bark: Path,
    tmp_path: Path,
    calibrated_model_folder: Path,
    calibrated_extractor: Extractor,
) -> None:
    out = tmp_path / "out"
    options = ("-o", out, "--model", calibrated_model_folder, "--json")
    like, hum = ("--like", bark), write_recording(tmp_path / "hum.wav", noise(9_000, seed=2))
    for arguments, expected in (
        ((street, *like), [Query(bark)]),
        ((street, *like, "--like", hum), [Query((bark, hum))]),
        ((street, "--not", "rain"), [Query((), "rain")]),
        ((street, "--not", "rain", "--not", "wind"), [Query((), ("rain", "wind"))]),
        ((street, *like, "--not", "rain"), [Query(bark, "rain")]),
        ((street, "a dog", "--not", "rain"), [Query("a dog", "rain")]),
        ((street, "a dog", *like), [Query(("a dog", bark))]),
        ((street, "a dog", "--not-like", hum), [Query("a dog", Path(hum))]),
        ((street, "--not-like", hum), [Query((), Path(hum))]),
        (
            (street, "a dog", *like, "--not", "rain"),
            [Query(("a dog", bark), "rain")],
        ),
        (
            (street, "-q", "a dog", "-q", "a cat", *like, "--not", "rain"),
            [Query(("a dog", bark), "rain"), Query(("a cat", bark), "rain")],
        ),
        ((street, "-q", "a dog", "-q", "a cat"), [Query("a dog"), Query("a cat")]),
    ):
        result = extract(*arguments, *options)
        assert successful_queries(result) == [str(query) for query in expected]
        for query, line in zip(expected, result.stdout.splitlines(), strict=True):
            result_in_process = calibrated_extractor.extract(street, query)
            presence = result_in_process.presence
            probability = presence and presence.probability
            assert json.loads(line)["presence"] == pytest.approx(probability, abs=1e-5)
            target, _ = soundfile.read(json.loads(line)["target"], dtype="float32")
            np.testing.assert_allclose(target.T, result_in_process.target, rtol=0, atol=1e-6)
    for start in (
        "street.not-rain-",
        "street.like-bark-wav-",
        "street.a-dog-like-bark-wav-not-rain-",
    ):
        assert [name for name in file_names(out) if name.startswith(start)]


def test_the_last_argument_is_a_recording_or_a_query(
    street: Path, bark: Path, tmp_path: Path, calibrated_model_folder: Path
) -> None:
    """Files, folders and patterns are recordings; all other text is a query."""
    more = write_recording(tmp_path / "more" / "b.wav", noise(9_000), subtype="PCM_16")
    options = ("--like", bark, "-o", tmp_path / "out", "--model", calibrated_model_folder, "--json")
    for last in (more, more.parent, f"{more.parent}/*.wav"):
        result = extract(street, last, *options)
        assert successful_queries(result) == ["like bark.wav"] * 2
        inputs = {Path(json.loads(line)["input"]) for line in result.stdout.splitlines()}
        assert inputs == {street, more}
    for last in ("dog", "a dog", "no. 2 and a dog"):
        assert successful_queries(extract(street, last, *options)) == [f"{last} / like bark.wav"]
    check_refused_addresses(street, bark)
    missing = extract(street, tmp_path / "missing.wav", *options)
    assert missing.exit_code == 3
    assert "missing.wav: no such file" in missing.stdout


def check_refused_addresses(street: Path, bark: Path) -> None:
    """An address is a recording, even as the last argument, and the way out is one line."""
    address = "https://example.org/dog?x=1"
    check_refused(extract(street, "--like", address), f"{address}: is an address: fetch it first")
    for arguments in ((address, "a dog"), (address, "--like", bark)):
        result = extract(*arguments, "-o", street.parent / "unused")
        check_refused(result, f"{address}: is an address: fetch it first")
    for option, other in (("-o", "https://example.org/x"), ("--report", "s3://bucket/x")):
        result = extract(street, "a dog", option, other)
        assert result.exit_code == 2
        assert f"{other} is an address: give a path" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("{street}",), "no query: describe a sound as the last argument"),
        (("{street}", "{street}"), "is a file: describe a sound as the last argument"),
        (("{street}", "--like"), "requires an argument"),
        (("{street}", "--not"), "requires an argument"),
    ],
)
def test_a_missing_query_is_a_usage_error(
    street: Path, arguments: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    result = extract("-o", tmp_path / "out", *(each.format(street=street) for each in arguments))
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.replace("│", " ").split())
    assert file_names(tmp_path) == ["street.wav"]


@pytest.mark.parametrize("kind", ["missing", "damaged", "silent", "long", "folder"])
@pytest.mark.parametrize("number", [1, 3])
def test_an_example_that_cannot_be_used_is_one_line(
    street: Path, tmp_path: Path, calibrated_model_folder: Path, kind: str, number: int
) -> None:
    """With one recording or several, and before any file is written."""
    path = tmp_path / "example.wav"
    if kind == "damaged":
        path.write_bytes(b"RIFF")
    elif kind == "silent":
        write_recording(path, np.zeros((1, 9_000)))
    elif kind == "long":
        write_recording(path, noise(8_000 * 61), 8_000)
    elif kind == "folder":
        path.mkdir()
    recordings = [street, *(tmp_path / f"{n}.wav" for n in range(1, number))]
    for other in recordings[1:]:
        shutil.copy(street, other)
    before = file_names(tmp_path)
    result = extract(
        *recordings, "--like", path, "--report", tmp_path / "report.jsonl",
        "-o", tmp_path / "out", "--model", calibrated_model_folder,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert file_names(tmp_path) == before


def test_what_a_model_cannot_answer_is_one_line(
    street: Path, tmp_path: Path, debug_model_folder: Path
) -> None:
    other = Path(shutil.copy(street, tmp_path / "other.wav"))
    options = ("-o", tmp_path / "out", "--model", debug_model_folder)
    for arguments in ((street, "a dog"), (street,), (street, other, "-q", "a dog")):
        result = extract(*arguments, "--not", "traffic", *options)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert "cannot answer negative prompts (traffic): leave them out" in line
    for blank in ("", " \t"):
        result = extract(street, "a dog", "--not", blank, *options)
        assert result.exit_code == 1
        assert "the query is empty" in result.stderr
    assert file_names(tmp_path) == ["other.wav", "street.wav"]


def test_an_empty_name_is_not_the_current_folder(
    street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(street.parent)
    check_refused(extract("", "a dog"), "the name of a recording is empty")
    assert file_names(street.parent) == ["street.wav"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "street.wav", "a dog", "-o", ""),
        ("extract", "street.wav", "a dog", "--report", ""),
        ("train", "--audio", ".", "-o", ""),
        ("evaluate", "manifest.jsonl", "-o", ""),
        ("gap", "manifest.jsonl", "--plot", ""),
    ],
)
def test_an_empty_name_to_write_to_is_refused(
    arguments: tuple[str, ...], street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(street.parent)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "the name is empty: give one, or . for" in " ".join(result.stderr.split())
    assert file_names(street.parent) == ["street.wav"]


def test_a_query_that_is_also_a_path_is_refused(
    street: Path, monkeypatch: pytest.MonkeyPatch, debug_model_folder: Path
) -> None:
    """Folders are often named by the sounds in them."""
    monkeypatch.chdir(street.parent)
    (street.parent / "rain").mkdir()
    result = extract(street.name, "rain", "--not", "traffic")
    assert result.exit_code == 2
    message = " ".join(result.stderr.split())
    assert (
        "'rain' is ambiguous: it could be a query or the path ./rain. Use --query rain, or ./rain"
        in message
    )
    result = extract(street.name, "rain", "--model", debug_model_folder, "-o", "out")
    assert result.exit_code == 0, result.output
    assert "street.rain.target.wav" in file_names(street.parent / "out")


@pytest.mark.parametrize(("option", "instead"), [("--not", "--not-like"), ("-q", "--like")])
def test_a_file_is_refused_as_a_text(street: Path, option: str, instead: str) -> None:
    result = extract(street, option, street)
    assert result.exit_code == 2
    assert f"is a file: use {instead}, or describe the sound" in " ".join(result.stderr.split())
