"""The launch examples, on a tiny run with two processes on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from singleout.train.curve import read_curve
from tests.conftest import TINY_SEPARATOR
from tests.train.runs import write_sounds

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SRUN = r"""#!/usr/bin/env bash
# Starts all tasks of a job on this machine, with the variables that SLURM gives them.
echo "$@" >> "$SRUN_LOG"
[ "$1" = --kill-on-bad-exit=1 ] && shift
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task"; done
"""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write_sounds(folder, 4)
    return folder


@pytest.fixture
def config(sounds: Path, debug_encoder_folder: Path, tmp_path: Path) -> Path:
    """The file of a run of two steps."""
    separator = TINY_SEPARATOR.model_copy(update={"channels": (4, 4), "time_strides": (2,)})
    values = {
        "audio": str(sounds),
        "output": str(tmp_path / "run"),
        "model": {
            "separator": separator.model_dump(mode="json"),
            "encoder": {"name": str(debug_encoder_folder)},
        },
        "mixtures": {"segment_seconds": 0.5, "crop_hop_seconds": 0.25, "num_sources": [2, 2]},
        "validation": {"num_mixtures": 0},
        "steps": 2,
        "batch_size": 2,
        "warmup_steps": 1,
        "num_workers": 0,
        "precision": "float32",
        "device": "cpu",
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    return path


def launch(command: list[str], tmp_path: Path, **variables: str) -> str:
    """Run a command with this interpreter and a new cache; its standard output."""
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "SINGLEOUT_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3_000:]
    return result.stdout


def assert_trained(tmp_path: Path, printed: str) -> None:
    """The first process alone has printed, and the run is complete."""
    assert [line for line in printed.splitlines() if line.startswith("model: ")] == [
        f"model: {tmp_path / 'run' / 'model'}"
    ]
    assert [row["step"] for row in read_curve(tmp_path / "run")] == [1, 2]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_torchrun(config: Path, tmp_path: Path) -> None:
    printed = launch([str(LAUNCH / "torchrun.sh"), str(config)], tmp_path, PROCESSES="2")
    assert_trained(tmp_path, printed)


@pytest.mark.slow
def test_slurm(config: Path, tmp_path: Path) -> None:
    """By a replica of srun, which starts the tasks of one node here."""
    tools = tmp_path / "tools"
    tools.mkdir()
    srun = tools / "srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000),
        "SLURM_JOB_NAME": "singleout", "SLURM_NTASKS": "2", "SLURM_NNODES": "1",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1", "SLURM_CPUS_PER_TASK": "2",
        "SRUN_LOG": str(tmp_path / "srun.txt"), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    script = str(LAUNCH / "slurm.sbatch")
    printed = launch(["bash", script, str(config)], tmp_path, **slurm)
    assert_trained(tmp_path, printed)
    call = (tmp_path / "srun.txt").read_text()
    assert call.startswith("--kill-on-bad-exit=1 ")
    assert call.endswith(f"-m singleout train {config} num_workers=1\n")


@pytest.mark.slow
def test_ray_train(config: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.train")
    command = [sys.executable, str(LAUNCH / "ray_train.py"), str(config), "--workers", "2"]
    assert_trained(tmp_path, launch(command, tmp_path, RAY_DEDUP_LOGS="0"))


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sbatch"])
def test_the_scripts_are_bash(name: str) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-n", str(LAUNCH / name)], check=True)
    assert os.access(LAUNCH / name, os.X_OK)


def directives(text: str) -> dict[str, Any]:
    """The options of the ``#SBATCH`` lines."""
    lines = (line for line in text.splitlines() if line.startswith("#SBATCH --"))
    return dict(line.removeprefix("#SBATCH --").split("=", 1) for line in lines)


def test_slurm_starts_a_task_for_each_gpu_and_warns_before_the_end() -> None:
    options = directives((LAUNCH / "slurm.sbatch").read_text())
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"].startswith("USR1@")  # without B:, so that the tasks get it
