"""What tables are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluate.benchmarks.replicas import (
    REPLICAS,
    assert_refused,
    replace_text,
)

TABLES: list[tuple[str, str, str, str]] = [
    ("esc50", "src_wav,noise_wav", "src,noise_wav", "the column src_wav is missing, its header is "
     "idx,caption,src,noise_wav"),
    ("audiocaps", "labels", "tags", "the column labels is missing"),
    ("clotho", "noise_wav1,noise_wav1", "noise_wav1,noise_wav2", "the column noise_wav1 is missing "
     "(number 2 of that name), its header is idx,caption,src_wav,noise_wav1,noise_wav2"),
    ("vggsound", "s0_text", "text", "the column s0_text is missing"),
    ("esc50", "1,chirping birds", "1,chirping,birds", "esc50_eval.csv:3: has 5 cells, its header "
     "has 4"),
    ("esc50", "1,chirping birds", "one,chirping birds", "esc50_eval.csv:3: idx is not a whole "
     "number: 'one'"),
    ("esc50", "1,chirping birds", "0,chirping birds", "esc50_eval.csv:3: 0 is already in line 2"),
    ("esc50", "1,chirping birds", "1, ", "esc50_eval.csv:3: its caption is not a valid query: "
     "the query is empty"),
    ("esc50", "1,chirping birds", '1,"chirping birds', "esc50_eval.csv: cannot be read as CSV"),
    ("audioset", "1,\"Rain, heavy\"", "0,\"Rain, heavy\"", "is not in the folder of class 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), TABLES)
def test_a_table_of_another_layout_is_refused(
    name: str, old: str, new: str, message: str, tmp_path: Path, debug_model_folder: Path
) -> None:
    REPLICAS[name](tmp_path)
    replace_text(tmp_path / f"metadata/{name}_eval.csv", old, new)
    assert_refused(message, name, "--data", tmp_path, "--model", debug_model_folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the column idx is missing, its header is empty"),
        (b"idx,caption,src_wav,noise_wav\n", "has no rows"),
        (b"idx,caption\xff", "cannot be read as CSV"),
    ],
)
def test_an_empty_or_broken_table_is_refused(
    content: bytes, message: str, tmp_path: Path, debug_model_folder: Path
) -> None:
    (tmp_path / "esc50_eval.csv").write_bytes(content)
    assert_refused(message, "esc50", "--data", tmp_path, "--model", debug_model_folder)


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    assert_refused("has no music_eval.csv, and neither has", "music", "--data", tmp_path)
    assert_refused("is not a folder", "music", "--data", tmp_path / "nowhere")
