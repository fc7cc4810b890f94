"""``singleout extract`` with one recording, in this process and as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import singleout
from singleout.audio import read_audio, write_wav
from tests.audio.test_reading import BAD, write_bad
from tests.cli.commands import check_refused, extract, file_size_limit, posix, run
from tests.recordings import file_names, files_below

pytestmark = pytest.mark.slow

RATE = 48_000


def test_extract_writes_target_and_residual(
    street: Path, tmp_path: Path, debug_model_folder: Path
) -> None:
    out = tmp_path / "new" / "folder"
    result = extract(street, "A dog barking!", "-o", out, "--model", debug_model_folder)
    assert result.exit_code == 0, result.output
    assert file_names(out) == [
        "street.a-dog-barking.residual.wav",
        "street.a-dog-barking.target.wav",
    ]
    (residual, rate), (target, _) = (read_audio(out / name) for name in file_names(out))
    mixture, _ = read_audio(street)
    assert rate == RATE
    assert np.abs(target + residual - mixture).max() <= 1e-6
    assert all(str(out / name) in result.stdout for name in file_names(out))
    assert result.stderr == ""


def test_default_folder_is_the_current_one(
    street: Path, tmp_path: Path, debug_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = extract(street, "dog", "--no-residual", "--model", debug_model_folder)
    assert result.exit_code == 0, result.output
    assert file_names(tmp_path / "here") == ["street.dog.target.wav"]


def test_json_and_plot(street: Path, tmp_path: Path, debug_model_folder: Path) -> None:
    out = tmp_path / "out"
    model = ("--model", debug_model_folder)
    result = extract(street, " a  dog ", "-o", out, "--json", "--plot", *model)
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
    result = extract(path, "a dog", "-o", tmp_path, "--json", "--plot", *model)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["target_db"] is None
    assert report["residual_db"] is None
    target, _ = read_audio(report["target"])
    assert target.shape == (2, 9_999)
    assert not target.any()
    assert extract(path, "a dog", "-o", tmp_path, *model).exit_code == 0


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind not in ("\0", "pipe")])
def test_bad_recordings(tmp_path: Path, debug_model_folder: Path, kind: str) -> None:
    """A pipe is no bad recording, but a command waits for the program that writes into it."""
    path = write_bad(tmp_path, kind)
    out = tmp_path / "out"
    result = extract(path, "a dog", "-o", out, "--strict", "--model", debug_model_folder)
    check_refused(result, str(path))
    assert not out.exists()


@pytest.mark.parametrize(
    ("query", "reason"),
    [("", "empty"), (" \t ", "empty"), ("dog " * 2_500, "10,000 characters"), ("\udcff", "text")],
)
def test_bad_queries(street: Path, tmp_path: Path, query: str, reason: str) -> None:
    check_refused(extract(street, query, "-o", tmp_path / "out"), reason)
    assert file_names(tmp_path) == ["street.wav"]


def damaged_model(folder: Path, debug_model: Path, kind: str) -> Path:
    """Path of a copy of the model that is damaged in the way ``kind`` names."""
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
    """Path of a copy of the encoder that is damaged in the way ``kind`` names."""
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
    check_refused(extract(street, "a dog", "-o", out, "--model", model), reason)
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
    check_refused(extract(street, "a dog", "-o", out, "--model", model), reason)
    assert not out.exists()


def test_bad_output_folders(street: Path, tmp_path: Path, debug_model_folder: Path) -> None:
    model = ("--model", debug_model_folder)
    for folder in (street, street / "below"):
        check_refused(extract(street, "a dog", "-o", folder, *model), "is a file")
    long = tmp_path / ("n" * 300)
    check_refused(extract(street, "a dog", "-o", long, *model), str(long))
    blocked = tmp_path / "street.a-dog.residual.wav"
    blocked.mkdir()
    check_refused(extract(street, "a dog", "-o", tmp_path, *model), "cannot be written")
    assert "street.a-dog.target.wav.partial" not in file_names(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_read_only_folder(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:  # root may write everywhere
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("singleout.cli.outputs.TemporaryFile", refuse)
    check_refused(extract(street, "a dog", "-o", tmp_path / "new"), "cannot be written")


def test_a_file_without_read_permission_is_not_called_damaged(
    street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(  # root may read everything
        os, "access", lambda path, mode: mode != os.R_OK and access(path, mode)
    )
    result = extract(street, "a dog", "-o", street.parent / "out")
    check_refused(result, "street.wav: may not be read: permission denied")


def test_plot_without_matplotlib_is_refused_before_any_work(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = extract(street, "a dog", "--plot", "-o", tmp_path)
    check_refused(result, "pip install 'singleout[plot]'")
    assert file_names(tmp_path) == ["street.wav"]


@posix
def test_a_full_disk_leaves_all_files_as_they_were(
    street: Path, tmp_path: Path, debug_model_folder: Path
) -> None:
    model = ("--model", debug_model_folder)
    assert extract(street, "dog", "-o", tmp_path, *model).exit_code == 0
    before = files_below(tmp_path)
    assert len(before) == 3
    with file_size_limit(9_999):
        check_refused(extract(street, "dog", "-o", tmp_path, *model), "File too large")
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("moment", ["singleout.extract.chunking.torch.tensor", "secrets.token_hex"])
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
    result = extract(street, "a dog", "-o", tmp_path, "--model", debug_model_folder)
    assert calls
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted"
    assert file_names(tmp_path) == ["street.wav"]


def test_wrong_usage_exits_with_2(street: Path) -> None:
    assert extract().exit_code == 2
    assert extract(street).exit_code == 2
    assert extract(street, "dog", "--no-such-option").exit_code == 2
    no_query = extract(street, street)
    assert no_query.exit_code == 2
    assert "is a file: describe a sound as the last argument" in " ".join(no_query.stderr.split())
    assert run("no-such-command").exit_code == 2


def test_help_and_version() -> None:
    assert "extract" in run("--help").stdout
    assert "--residual / --no-residual" in extract("--help").stdout
    assert run("--version").stdout == f"singleout {singleout.__version__}\n"


@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("--model", "n" * 300, "not a path"),
        ("--model", "~nobody-at-all/x", "not a path"),
        ("--encoder", "~nobody-at-all/x.pt", "not a path"),
        ("--report", "n" * 300, "cannot be written"),
    ],
)
def test_an_impossible_name_is_refused_in_one_line(
    street: Path, option: str, name: str, reason: str
) -> None:
    check_refused(extract(street, "a dog", "-o", street.parent / "out", option, name), reason)


def test_packaged_model_from_the_command_line(street: Path, tmp_path: Path) -> None:
    """This test needs the weights in src/singleout/builtin."""
    result = extract(street, "a dog barking", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert len(file_names(tmp_path)) == 3
