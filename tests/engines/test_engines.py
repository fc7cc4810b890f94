"""The engines give the same results, whatever happens to their workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from singleout.engines import Engine, LocalEngine, load_engine
from singleout.engines.ray import ENVIRONMENT, RayEngine
from singleout.errors import InputError, MissingExtraError, SingleoutError


def squares() -> Callable[[int], int]:
    return lambda number: number**2


def refusing() -> Callable[[str], str]:
    def refuse(name: str) -> str:
        if name == "good":
            return name
        raise InputError(f"{name}: cannot be read")

    return refuse


def failing() -> Callable[[int], float]:
    return lambda number: 1 / number


def dying_once(folder: Path) -> Callable[[], Callable[[int], int]]:
    """A function whose process is killed by its first item, as by a system without memory."""

    def make() -> Callable[[int], int]:
        def run(number: int) -> int:
            mark = folder / f"{number}"
            if number == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return number**2

        return run

    return make


def test_the_local_engine_makes_one_worker() -> None:
    made: list[int] = []

    def make() -> Callable[[int], int]:
        made.append(1)
        return lambda number: number + 1

    assert list(LocalEngine().run(make, [1, 2, 3])) == [2, 3, 4]
    assert made == [1]


def test_an_engine_without_items_starts_nothing() -> None:
    assert list(RayEngine("nowhere:1").run(squares, [])) == []


def test_a_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"singleout\[scale\]"):
        list(load_engine("ray").run(squares, [1]))


@pytest.mark.slow
def test_a_missing_cluster_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(SingleoutError, match=f"no Ray cluster answers at {address}") as caught:
        list(load_engine("ray", address).run(squares, [1]))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """The Ray engine in a cluster of two cores and a GPU that only Ray knows, for all tests."""
    import ray

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray.init(
        num_cpus=2, num_gpus=1, include_dashboard=False, logging_level="ERROR",
        log_to_driver=False, object_store_memory=100 << 20,
    )  # fmt: skip
    yield RayEngine()
    ray.shutdown()


@pytest.mark.slow
def test_ray_gives_the_results_of_the_local_engine(engine: Engine) -> None:
    assert sorted(engine.run(squares, range(12))) == list(LocalEngine().run(squares, range(12)))
    assert print.__module__ == "builtins"  # Ray would put its own there


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_ray_never_waits_for_a_machine_that_the_cluster_lacks() -> None:
    assert sorted(RayEngine(cpus_per_worker=64).run(squares, [1, 2])) == [1, 4]
    with pytest.raises(SingleoutError, match="no machine of the cluster has 2 GPUs: give 1 or"):
        list(RayEngine(gpus_per_worker=2).run(squares, [1, 2]))


@pytest.mark.slow
def test_ray_raises_our_errors_and_shortens_others(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"^bad\.wav: cannot be read"):
        list(engine.run(refusing, ["good", "bad.wav"]))
    with pytest.raises(SingleoutError, match="worker on the cluster failed: ZeroDivisionError"):
        list(engine.run(failing, [1, 0]))


@pytest.mark.slow
def test_ray_repeats_the_item_of_a_killed_worker(engine: Engine, tmp_path: Path) -> None:
    results = list(engine.run(dying_once(tmp_path), range(6)))
    assert sorted(results) == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "3").exists(), "a worker was killed"


def dying_always() -> Callable[[int], int]:
    def run(number: int) -> int:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2

    return run


@pytest.mark.slow
def test_ray_gives_up_an_item_that_kills_each_of_its_workers(engine: Engine) -> None:
    results = engine.run(dying_always, range(4), lost=lambda number: -number)
    assert sorted(results) == [-1, 0, 4, 9]
    with pytest.raises(SingleoutError, match="the process of 1 was killed 2 times"):
        list(engine.run(dying_always, range(2)))


SLEEPING = """
import sys, time
from singleout.cli.signals import stop_signals
stop_signals.install()
from singleout.engines import load_engine
try:
    for _ in load_engine("ray").run(lambda: lambda n: time.sleep(n), [0, 600, 600]):
        print("started", flush=True)
except KeyboardInterrupt:
    stop_signals.finish()  # or its timer may end the process once more
    sys.exit(stop_signals.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_cluster(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal(2, signal.default_int_handler);"
         f"{SLEEPING}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert errors == ""
    deadline = time.monotonic() + 60
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(process.pid) == []


def processes_of(session: int) -> list[int]:
    """Numbers of the living processes that a session has."""
    numbers = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            numbers.append(int(folder.name))
    return numbers
