"""The list of benchmarks: what the command and Python callers choose from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from singleout import evaluate
from singleout.errors import ConfigError, InputError
from singleout.evaluate.benchmarks import BENCHMARKS, load_benchmark
from tests.evaluate.benchmarks.replicas import (
    invoke,
)


def test_published_numbers_of_items() -> None:
    counts = {name: load_benchmark(name).num_items for name in BENCHMARKS}
    assert counts == {
        "audioset": 5270,
        "audiocaps": 4820,
        "clotho": 5225,
        "esc50": 2000,
        "music": 5004,
        "vggsound": 1000,
        "dcase2024-validation": 3000,
        "dcase2024-evaluation": 3000,
        "dcase2024-evaluation-real": None,
        "mix": None,
    }


def test_the_registry_is_the_list_of_the_command() -> None:
    assert {name: load_benchmark(name).name for name in BENCHMARKS} == {n: n for n in BENCHMARKS}
    shown = "".join(invoke("--help").stdout.replace("│", " ").split())  # lines are wrapped
    assert f"Oneof:{','.join(BENCHMARKS)}." in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fsd50k",), "'fsd50k' is not a benchmark: choose one of audioset"),
        (("music", "--snr", "0", "--seed", "3"), "snr_db, seed: music has no options, only"),
        (("music", "--absent"), "absent: music has no options, only these benchmarks have: mix"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    run = invoke(*arguments, "--data", tmp_path)
    assert run.exit_code == 2
    assert message in " ".join(run.stderr.replace("│", " ").split())


def test_an_unknown_benchmark_and_options_without_use_are_refused() -> None:
    with pytest.raises(InputError, match="'fsd50k' is not a benchmark: choose one of audioset"):
        load_benchmark("fsd50k")
    with pytest.raises(InputError, match=r"seed: music has no options, only .* have: mix"):
        load_benchmark("music", seed=3)
    with pytest.raises(ConfigError, match="mix: unknown key 'seconds'"):
        load_benchmark("mix", seconds=3)


def test_the_list_needs_no_torch() -> None:
    """The help of the command stays instant, and the public face is lazy."""
    code = "import sys, singleout.evaluate, singleout.cli; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(dir(evaluate)) >= set(evaluate.__all__)
    assert all(getattr(evaluate, name) is not None for name in evaluate.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = evaluate.nothing
