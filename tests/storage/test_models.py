"""From the name of a model to its files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import singleout
from singleout.errors import MissingExtraError, ModelError
from singleout.storage.hub import is_hub_id, path_of, split_revision
from singleout.storage.journal import JOURNAL
from singleout.storage.models import list_models, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_every_listed_model_is_in_the_package() -> None:
    assert singleout.list_models() == list_models() == ["builtin"]
    for name in list_models():
        assert (resolve_model(name) / "config.json").is_file()
        assert (resolve_model(name) / "model.safetensors").is_file()


def test_builtin_is_the_default() -> None:
    assert resolve_model() == resolve_model(None) == resolve_model("builtin")
    assert resolve_model(Path("builtin")) == resolve_model("builtin")


def test_a_folder_called_builtin_has_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "builtin").mkdir()
    assert resolve_model("builtin") != tmp_path / "builtin"
    for name in ("./builtin", str(tmp_path / "builtin"), f"../{tmp_path.name}/builtin"):
        resolved = resolve_model(name)
        assert resolved.samefile(tmp_path / "builtin")
        assert resolve_model(resolved).samefile(tmp_path / "builtin")  # also as a Path


def test_folders_and_files_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").mkdir()  # it has the form of a hub id
    (tmp_path / "last.ckpt").touch()
    assert resolve_model("run/model") == Path("run/model")
    assert resolve_model(tmp_path / "run") == tmp_path / "run"
    assert resolve_model("last.ckpt") == Path("last.ckpt")
    assert resolve_model("~/last.ckpt") == tmp_path / "last.ckpt"


def test_the_folder_of_a_training_is_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Path("run", "model")
    model.mkdir(parents=True)
    (model / "config.json").touch()
    Path("run", "config.json").touch()  # the settings of the training
    for name in ("run", "./run", "run/", Path("run"), tmp_path / "run"):
        assert resolve_model(name).samefile(model)
    assert resolve_model("run/model") == model
    Path("run", "model.safetensors").touch()  # a saved model, which may hold any folder
    assert resolve_model("run") == Path("run")


def test_a_model_that_was_saved_in_part_is_recovered(tmp_path: Path) -> None:
    old = ".config.json.0123456789abcdef-1.partial"
    for name, text in [("config.json", "new"), (old, "old"), ("model.safetensors", "new")]:
        (tmp_path / name).write_text(text)
    journal = {"config.json": old, "model.safetensors": None}
    (tmp_path / JOURNAL).write_text(json.dumps(journal) + "\n")
    assert resolve_model(tmp_path) == tmp_path
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"config.json": "old"}


def test_a_pipe_or_a_device_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ModelError, match=f"{path}: is a device or a pipe: give the folder"):
            resolve_model(path)


def test_a_path_below_a_file_or_a_circle_of_links_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    for path in (tmp_path / "file" / "model", tmp_path / "circle"):
        assert resolve_model(path) == path


@pytest.mark.parametrize("name", ["missing", "a/b/c", "./missing/model", "/missing/model"])
def test_a_missing_path_is_left_to_its_reader(name: str) -> None:
    assert resolve_model(name) == Path(name)


@pytest.mark.parametrize("name", ["n" * 9_999, "~nobody-at-all/x", "a\0", "a\n" * 9_999])
def test_a_name_that_is_not_a_path_is_one_line(name: str) -> None:
    for read in (resolve_model, path_of):
        with pytest.raises(ModelError, match="not a path") as caught:
            read(name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


def test_a_hub_id_without_huggingface_hub_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'singleout\[hub\]'") as caught:
        resolve_model("someone/missing")
    assert str(caught.value).startswith("someone/missing: there is no such folder")
    assert resolve_model("builtin").is_dir()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the hub's cache of someone/model, without network."""
    repository = tmp_path / "hub" / "models--someone--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("someone/model", None),
        ("someone/model@v1", None),
        ("someone/model", "v1"),
        ("someone/model@missing", "v1"),
        (f"someone/model@{COMMIT}", None),
    ],
)
@pytest.mark.parametrize("file", ["model.safetensors", "last.ckpt"])
def test_a_hub_id_is_a_folder_of_the_cache(
    name: str, revision: str | None, file: str, hub: Path
) -> None:
    (hub / file).touch()
    assert resolve_model(name, revision) == hub


def test_a_folder_wins_over_a_hub_id(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "model").mkdir(parents=True)
    assert resolve_model("someone/model") == Path("someone/model")
    shutil.rmtree(tmp_path / "someone")
    assert resolve_model("someone/model") == hub


def test_a_revision_of_many_lines_is_one_line(hub: Path) -> None:
    with pytest.raises(ModelError, match="someone/model@a b: ") as caught:
        resolve_model("someone/model", "a\nb")
    assert "\n" not in str(caught.value)


def test_a_missing_repository_is_one_line(hub: Path) -> None:
    with pytest.raises(ModelError, match="someone/other: no folder of that name, not in") as caught:
        resolve_model("someone/other")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="someone/model@v2: no folder of that name"):
        resolve_model("someone/model", "v2")


def test_hub_ids_and_their_revisions() -> None:
    assert is_hub_id("owner/name")
    assert is_hub_id("owner/name@v1.0")
    assert not is_hub_id("folder")
    assert not is_hub_id("a/b/c")
    assert split_revision("owner/name") == ("owner/name", None)
    assert split_revision("owner/name@x") == ("owner/name", "x")
    assert split_revision("owner/name@x", "y") == ("owner/name", "y")
