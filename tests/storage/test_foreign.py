"""Checkpoints of other projects: their files, their tensors, and what is refused."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from singleout.errors import ModelError
from singleout.storage.foreign import checkpoint_file, read_tensors


def test_a_file_is_its_own_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path / "a.ckpt", tmp_path / "missing.pt"):
        assert checkpoint_file(path) == path


def test_the_names_of_hubs_come_first(tmp_path: Path) -> None:
    for name in ("other.ckpt", "pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).touch()
        assert checkpoint_file(tmp_path) == tmp_path / name


def test_a_folder_without_a_single_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must hold one checkpoint, holds none: name the file"):
        checkpoint_file(tmp_path)
    (tmp_path / "a.ckpt").touch()
    (tmp_path / "b.pt").touch()
    with pytest.raises(ModelError, match=r"holds a\.ckpt, b\.pt: name the file"):
        checkpoint_file(tmp_path)


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"module.a": torch.ones(2)}, path)
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"a\.safetensors: corrupt or truncated"):
        read_tensors(path)


def test_a_lightning_checkpoint_is_unwrapped(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    state = {"module.a": torch.ones(2), "module.b": torch.zeros(1)}
    extras = {"epoch": 3, "best": np.float64(0.5), "args": argparse.Namespace(rate=1)}
    torch.save({"state_dict": state, **extras}, path)
    tensors = read_tensors(path)
    assert list(tensors) == ["a", "b"]
    assert torch.equal(tensors["a"], torch.ones(2))


def test_the_format_before_zip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(touched),)

    torch.save({"state_dict": {"a": torch.ones(2)}, "x": Code()}, tmp_path / "bad.ckpt")
    with pytest.raises(ModelError, match=r"bad\.ckpt: refused: it holds code or objects"):
        read_tensors(tmp_path / "bad.ckpt")
    assert not touched.exists()


@pytest.mark.parametrize("kept", [0, 40, 3_000])
def test_a_cut_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    torch.save({"a": torch.ones(20_000)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"cut\.ckpt: not a checkpoint, or truncated"):
        read_tensors(path)


@pytest.mark.parametrize(
    "content", [b"error: x\n", b"<!DOCTYPE html>", b"version https://git-lfs", bytes(64), b"PK"]
)
def test_a_file_that_is_not_a_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"text\.ckpt: not a checkpoint, or truncated"):
        read_tensors(path)


def test_a_cut_file_of_the_old_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"a": torch.ones(8)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for kept in range(0, len(whole), 3):
        path.write_bytes(whole[:kept])
        with pytest.raises(ModelError, match=r"old\.pt"):
            read_tensors(path)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    class Forged:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return np.ndarray, ((1,), "O", bytes(8))

    torch.save({"a": torch.ones(1), "x": Forged()}, tmp_path / "forged.pt")
    with pytest.raises(ModelError, match="refused"):
        read_tensors(tmp_path / "forged.pt")


def test_names_that_are_not_text_are_ignored(tmp_path: Path) -> None:
    torch.save({0: torch.ones(1), "a": torch.ones(2)}, tmp_path / "a.pt")
    assert list(read_tensors(tmp_path / "a.pt")) == ["a"]


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "none.pt")
    with pytest.raises(ModelError, match="holds no tensors"):
        read_tensors(tmp_path / "none.pt")
    with pytest.raises(ModelError, match="no such file"):
        read_tensors(tmp_path / "missing.pt")
