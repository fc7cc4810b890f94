"""The command line, in this process and as users run it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import singleout
from singleout.audio import read_audio, write_wav
from singleout.cli import app, main
from singleout.extract.batch import Job
from singleout.extract.names import query_slug
from singleout.types import Query
from tests.audio.test_arrays import BAD, noise, write_bad

RATE = 48_000


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "street.wav"
    write_wav(path, noise(2, RATE), RATE)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def check_refused(result: Result, reason: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert reason in line


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_extract_writes_target_and_residual(
    street: Path, tmp_path: Path, debug_model_folder: Path
) -> None:
    out = tmp_path / "new" / "folder"
    result = run("extract", street, "A dog barking!", "-o", out, "--model", debug_model_folder)
    assert result.exit_code == 0, result.output
    assert names(out) == ["street.a-dog-barking.residual.wav", "street.a-dog-barking.target.wav"]
    (residual, rate), (target, _) = (read_audio(out / name) for name in names(out))
    mixture, _ = read_audio(street)
    assert rate == RATE
    assert np.abs(target + residual - mixture).max() <= 1e-6
    assert all(str(out / name) in result.stdout for name in names(out))
    assert result.stderr == ""


def test_default_folder_is_the_current_one(
    street: Path, tmp_path: Path, debug_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = run("extract", street, "dog", "--no-residual", "--model", debug_model_folder)
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "here") == ["street.dog.target.wav"]


def test_json_and_plot(street: Path, tmp_path: Path, debug_model_folder: Path) -> None:
    out = tmp_path / "out"
    model = ("--model", debug_model_folder)
    result = run("extract", street, " a  dog ", "-o", out, "--json", "--plot", *model)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["query"] == "a dog"
    assert report["target"] == str(out / "street.a-dog.target.wav")
    assert report["residual"] == str(out / "street.a-dog.residual.wav")
    assert report["plot"] == str(out / "street.a-dog.png")
    assert all(Path(report[kind]).is_file() for kind in ("target", "residual", "plot"))
    assert (report["sample_rate"], report["channels"], report["seconds"]) == (RATE, 2, 1.0)
    assert report["real_time_factor"] == pytest.approx(report["wall_seconds"], abs=1e-3)
    (target, _), (mixture, _) = read_audio(report["target"]), read_audio(street)
    expected = 10 * np.log10(np.mean(target**2) / np.mean(mixture**2))
    assert report["target_db"] == pytest.approx(expected, abs=0.01)


def test_silence_is_not_an_error(tmp_path: Path, debug_model_folder: Path) -> None:
    path = tmp_path / "silence.wav"
    write_wav(path, np.zeros((2, 9_999), np.float32), 44_100)
    model = ("--model", debug_model_folder)
    result = run("extract", path, "a dog", "-o", tmp_path, "--json", "--plot", *model)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["target_db"] is None
    assert report["residual_db"] is None
    target, _ = read_audio(report["target"])
    assert target.shape == (2, 9_999)
    assert not target.any()
    assert run("extract", path, "a dog", "-o", tmp_path, *model).exit_code == 0


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "\0"])
def test_bad_recordings(tmp_path: Path, debug_model_folder: Path, kind: str) -> None:
    path = write_bad(tmp_path, kind)
    out = tmp_path / "out"
    result = run("extract", path, "a dog", "-o", out, "--model", debug_model_folder)
    check_refused(result, str(path))
    assert not out.exists()


@pytest.mark.parametrize(
    ("query", "reason"),
    [("", "empty"), (" \t ", "empty"), ("dog " * 2_500, "10,000 characters"), ("\udcff", "text")],
)
def test_bad_queries(street: Path, tmp_path: Path, query: str, reason: str) -> None:
    check_refused(run("extract", street, query, "-o", tmp_path / "out"), reason)
    assert names(tmp_path) == ["street.wav"]


def damaged_model(folder: Path, debug_model: Path, kind: str) -> Path:
    if kind == "missing":
        return folder / "no-such-model"
    model = folder / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes((debug_model / name).read_bytes())
    config = json.loads((model / "config.json").read_text())
    weights = (model / "model.safetensors").read_bytes()
    if kind == "a file":
        return model / "config.json"
    if kind == "no config":
        (model / "config.json").unlink()
    elif kind == "config is no JSON":
        (model / "config.json").write_text("{")
    elif kind == "unknown key":
        config["separator"]["widht"] = 3
    elif kind == "another architecture":
        config["separator"] = {"type": "resunet30"}
    elif kind == "other sizes":
        config["separator"]["bottleneck"] = 24
    elif kind == "other depth":
        config["separator"]["dilations"] = [1, 2, 4]
    elif kind == "no weights":
        (model / "model.safetensors").unlink()
    elif kind == "truncated weights":
        (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    elif kind == "corrupt weights":
        (model / "model.safetensors").write_bytes(b"\xff" * 1_000)
    elif kind == "another encoder":
        config["encoder"]["fingerprint"] = "0" * 16
    elif kind == "no encoder":
        config["encoder"]["name"] = str(folder / "nowhere")
    if "config" not in kind:
        (model / "config.json").write_text(json.dumps(config))
    return model


def damaged_encoder(folder: Path, debug_encoder: Path, kind: str) -> Path:
    encoder = folder / "encoder"
    shutil.copytree(debug_encoder, encoder)
    config = json.loads((encoder / "config.json").read_text())
    if kind == "another type":
        config["type"] = "clap"
    elif kind == "no network":
        del config["network"]
    elif kind == "unknown key":
        config["network"]["sentence"]["layers"] = 3
    elif kind == "other sizes":
        config["network"]["dim"] = 16
    elif kind == "no fingerprint":
        del config["fingerprint"]
    elif kind == "bad tokenizer":
        (encoder / "tokenizer.json").write_text("{}")
    elif kind == "truncated weights":
        weights = (encoder / "model.safetensors").read_bytes()
        (encoder / "model.safetensors").write_bytes(weights[:-9])
    (encoder / "config.json").write_text(json.dumps(config))
    return encoder


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("another type", "not a built-in query encoder"),
        ("no network", "another architecture"),
        ("unknown key", "another architecture"),
        ("other sizes", "another architecture"),
        ("no fingerprint", "another architecture"),
        ("bad tokenizer", "not a tokenizer"),
        ("truncated weights", "corrupt or truncated"),
    ],
)
def test_bad_encoders(
    street: Path,
    tmp_path: Path,
    debug_model_folder: Path,
    debug_encoder_folder: Path,
    kind: str,
    reason: str,
) -> None:
    encoder = damaged_encoder(tmp_path, debug_encoder_folder, kind)
    model = tmp_path / "model"
    shutil.copytree(debug_model_folder, model)
    config = json.loads((model / "config.json").read_text())
    config["encoder"]["name"] = str(encoder)
    (model / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    check_refused(run("extract", street, "a dog", "-o", out, "--model", model), reason)
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "does not exist"),
        ("a file", "config.json"),
        ("no config", "no readable config.json"),
        ("config is no JSON", "no readable config.json"),
        ("unknown key", "unknown key 'separator.conditioned_unet.widht'"),
        ("another architecture", "another architecture"),
        ("other sizes", "another architecture"),
        ("other depth", "another architecture"),
        ("no weights", "no such file"),
        ("truncated weights", "corrupt or truncated"),
        ("corrupt weights", "corrupt or truncated"),
        ("another encoder", "fingerprint"),
        ("no encoder", "not a query encoder's folder"),
    ],
)
def test_bad_models(
    street: Path, tmp_path: Path, debug_model_folder: Path, kind: str, reason: str
) -> None:
    model = damaged_model(tmp_path, debug_model_folder, kind)
    out = tmp_path / "out"
    check_refused(run("extract", street, "a dog", "-o", out, "--model", model), reason)
    assert not out.exists()


def test_bad_output_folders(street: Path, tmp_path: Path, debug_model_folder: Path) -> None:
    model = ("--model", debug_model_folder)
    for place in (street, street / "below"):
        check_refused(run("extract", street, "a dog", "-o", place, *model), "is a file")
    long = tmp_path / ("n" * 300)
    check_refused(run("extract", street, "a dog", "-o", long, *model), str(long))
    blocked = tmp_path / "street.a-dog.residual.wav"
    blocked.mkdir()
    check_refused(run("extract", street, "a dog", "-o", tmp_path, *model), "cannot be written")
    assert "street.a-dog.target.wav.partial" not in names(tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(os.name != "posix", reason="permissions of folders")
def test_read_only_folder(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    check_refused(run("extract", street, "a dog", "-o", tmp_path / "new"), "cannot be written")


def test_what_may_not_be_read_is_not_called_damaged(
    street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.access
    monkeypatch.setattr(  # root may read everything
        os, "access", lambda path, mode: mode != os.R_OK and allowed(path, mode)
    )
    result = run("extract", street, "a dog", "-o", street.parent / "out")
    check_refused(result, "street.wav: may not be read: permission denied")


def test_plot_without_matplotlib_is_refused_before_any_work(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("extract", street, "a dog", "--plot", "-o", tmp_path)
    check_refused(result, "pip install 'singleout[plot]'")
    assert names(tmp_path) == ["street.wav"]


@pytest.mark.parametrize("moment", ["singleout.extract.chunking.torch.tensor", "os.getpid"])
def test_interrupt_leaves_nothing(
    street: Path,
    tmp_path: Path,
    debug_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    calls = []

    def interrupt(*_: object, **__: object) -> None:
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, interrupt)
    result = run("extract", street, "a dog", "-o", tmp_path, "--model", debug_model_folder)
    assert calls
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted"
    assert names(tmp_path) == ["street.wav"]


def test_progress_bar_needs_a_terminal_and_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    room = sys.modules["singleout.cli.report"]
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with room.progress_bar(1) as (progress, _):
        assert progress is None
    monkeypatch.setenv("TERM", "xterm")
    stderr.isatty = lambda: True  # type: ignore[method-assign]
    task = Job(Path("x.wav"), Path(), "x")
    with room.progress_bar(1) as (progress, _):
        progress(task, 0.5)
    assert stderr.getvalue() == ""
    monkeypatch.setattr(room, "PATIENCE_SECONDS", 0.0)
    with room.progress_bar(1) as (progress, _):
        progress(task, 0.5)
        progress(task, 1.0)
    assert "extracting" in stderr.getvalue()


def test_wrong_usage_exits_with_2(street: Path) -> None:
    assert run("extract").exit_code == 2
    assert run("extract", street).exit_code == 2
    assert run("extract", street, "dog", "--no-such-option").exit_code == 2
    forgotten = run("extract", street, street)
    assert forgotten.exit_code == 2
    assert "is a file: describe a sound as the last argument" in " ".join(forgotten.stderr.split())
    assert run("no-such-command").exit_code == 2


def test_help_and_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert "extract" in run("--help").stdout
    assert "--residual / --no-residual" in run("extract", "--help").stdout
    monkeypatch.setattr(sys, "argv", ["singleout", "--version"])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"singleout {singleout.__version__}\n"


def test_an_empty_name_is_not_the_current_folder(
    street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(street.parent)
    check_refused(run("extract", "", "a dog"), "the name of a recording is empty")
    assert names(street.parent) == ["street.wav"]


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
    assert names(street.parent) == ["street.wav"]


def test_a_query_that_is_also_a_path_is_refused(
    street: Path, monkeypatch: pytest.MonkeyPatch, debug_model_folder: Path
) -> None:
    """As of one folder for each kind of sound."""
    monkeypatch.chdir(street.parent)
    (street.parent / "rain").mkdir()
    result = run("extract", street.name, "rain", "--not", "traffic")
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert (
        "'rain' is ambiguous: it could be a query or the path ./rain. Use --query rain, or ./rain"
        in said
    )
    result = run("extract", street.name, "rain", "--model", debug_model_folder, "-o", "out")
    assert result.exit_code == 0, result.output
    assert "street.rain.target.wav" in names(street.parent / "out")


@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("--model", "n" * 300, "not a path"),
        ("--model", "~nobody-at-all/x", "not a path"),
        ("--encoder", "~nobody-at-all/x.pt", "not a path"),
        ("--report", "n" * 300, "cannot be written"),
    ],
)
def test_names_that_cannot_be_are_one_line(
    street: Path, option: str, name: str, reason: str
) -> None:
    check_refused(
        run("extract", street, "a dog", "-o", street.parent / "out", option, name), reason
    )


@pytest.mark.parametrize(("option", "instead"), [("--not", "--not-like"), ("-q", "--like")])
def test_a_file_is_refused_as_a_text(street: Path, option: str, instead: str) -> None:
    result = run("extract", street, option, street)
    assert result.exit_code == 2
    assert f"is a file: use {instead}, or describe the sound" in " ".join(result.stderr.split())


def test_a_report_does_not_take_the_place_of_the_output(street: Path) -> None:
    out = street.parent / "out"
    result = run("extract", street, "a dog", "-o", out, "--report", out)
    check_refused(result, "would overwrite")
    assert not out.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_standard_output_is_one_line(street: Path, debug_model_folder: Path) -> None:
    code = "from singleout.cli import main; main()"
    command = [sys.executable, "-c", code, "extract", street, "a dog", "--json"]
    options = ["-o", street.parent / "out", "--model", debug_model_folder]
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(
            [*map(str, command), *map(str, options)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr == "error: stdout cannot be written: no space is left\n"


@given(st.text(st.characters(codec="utf-8"), max_size=300).filter(lambda text: text.strip()))
def test_slugs_are_safe_file_names(text: str) -> None:
    query = Query(text)  # type: ignore[arg-type]
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
def test_a_later_query_gets_files_of_its_own(one: str | Path, other: str | Path) -> None:
    slugs = [query_slug(Query.of(query)) for query in (one, other)]
    assert slugs[0] != slugs[1]
    assert slugs == [query_slug(Query.of(query)) for query in (one, other)]


# As users run it.

LOADED = """
import sys
sys.argv[1:] = {arguments!r}
from singleout.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print([name for name in {forbidden!r} if name in sys.modules])
"""


def loaded(arguments: list[str], forbidden: list[str]) -> str:
    code = LOADED.format(arguments=arguments, forbidden=forbidden)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()[-1]


def test_help_is_light() -> None:
    heavy = ["torch", "numpy", "soundfile", "pydantic", "tokenizers", "matplotlib"]
    assert loaded(["--help"], heavy) == "[]"


def test_extract_is_light(street: Path, tmp_path: Path, debug_model_folder: Path) -> None:
    heavy = ["transformers", "lightning", "torchmetrics", "matplotlib", "scipy", "torch._dynamo"]
    arguments = ["extract", str(street), "dog", "-o", str(tmp_path)]
    assert loaded([*arguments, "--model", str(debug_model_folder)], heavy) == "[]"


def test_as_a_process(
    street: Path, tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    model = ["--model", str(debug_model_folder)]
    extract = [*command, "extract", str(street), "dog", "-o", str(tmp_path), *model]
    done = subprocess.run([*extract, "--json"], capture_output=True, text=True, check=True)
    assert Path(json.loads(done.stdout)["target"]).is_file()
    assert done.stderr == ""

    # The disk is full: what was there stays, nothing new appears.
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))"
    limited += "; from singleout.cli import main; main()"
    full = subprocess.run(
        [sys.executable, "-c", limited, *extract[3:]], capture_output=True, text=True
    )
    assert full.returncode == 1
    assert full.stderr.startswith("error: ")
    assert "File too large" in full.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_reader_that_left_is_no_crash(
    street: Path, tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    model = ["--model", str(debug_model_folder)]
    extract = [*command, "extract", str(street), "dog", "-o", str(tmp_path), *model]
    done = subprocess.run(extract, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert "Traceback" not in done.stderr
    assert len(names(tmp_path)) == 3


def test_names_that_are_no_text(
    tmp_path: Path, debug_model_folder: Path, command: list[str]
) -> None:
    street = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write_wav(street, noise(1, 999), RATE)
    done = subprocess.run(
        [*command, "extract", street, "犬", "-o", tmp_path, "--model", debug_model_folder],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(names(tmp_path)) == 3


def test_packaged_model_from_the_command_line(street: Path, tmp_path: Path) -> None:
    """Needs the model in the package."""
    result = run("extract", street, "a dog barking", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert len(names(tmp_path)) == 3
