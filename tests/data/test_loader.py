"""The loader: the same mixtures with any number of processes, workers and parts, from any step."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Generator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout.data.clips import Clip
from singleout.data.dataset import MixtureDataset, QueryAudioConfig, TrainingExample
from singleout.data.loader import MixtureLoader
from singleout.errors import AudioError, ConfigError
from tests.data.examples import assert_equal, coded_captions, coded_table, dataset_of
from tests.data.sounds import RATE, SHORT


class NumbersOnly(MixtureDataset):
    """Examples of their number alone, so that many can be made."""

    def __getitem__(self, index: int) -> TrainingExample:
        assert 0 <= index < self.length
        return {"index": torch.tensor(self.first + index)}  # type: ignore[typeddict-item]


def numbers_of(loader: MixtureLoader, count: int | None = None) -> list[list[int]]:
    """The mixtures of the next batches, by default of all."""
    batches = iter(loader)
    given = [batch["index"].tolist() for batch in batches] if count is None else []
    for _ in range(count or 0):
        given.append(next(batches)["index"].tolist())
    return given


def numbered(clips: list[Clip], first: int, length: int) -> NumbersOnly:
    return NumbersOnly(clips, SHORT, RATE, coded_table(clips), None, 5, first, length)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_all_processes_together_give_every_mixture_once_and_in_order(
    data: st.DataObject, five_clips: list[Clip]
) -> None:
    """Of any numbers of processes and parts, and from any step at which another run stopped."""
    draw = data.draw
    num_ranks, num_parts = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    batch_size = num_ranks * num_parts * draw(st.integers(1, 3))
    first, length = draw(st.integers(0, 5)) * batch_size, draw(st.integers(1, 40))
    dataset = numbered(five_clips, first, length)
    state = MixtureLoader(dataset, batch_size).state_dict()
    begin = draw(st.integers(0, -(-length // batch_size)))
    state["step"] += begin
    given: dict[int, list[int]] = {}
    for rank in range(num_ranks):
        loader = MixtureLoader(
            dataset, batch_size, rank=rank, num_ranks=num_ranks, num_parts=num_parts
        )
        loader.load_state_dict(state)
        expected = len(loader)
        parts = numbers_of(loader)
        assert len(parts) == expected
        for part in parts:
            given.setdefault(part[0] // batch_size, []).extend(part)
            assert {number // batch_size for number in part} == {part[0] // batch_size}
        assert loader.state_dict()["step"] == first // batch_size - (-length // batch_size)
    # Processes follow one another within a step, and parts within a process.
    joined = [number for step in sorted(given) for number in given[step]]
    assert joined == [*range(first + begin * batch_size, first + length)]


def test_full_steps_are_cut_into_equal_batches(five_clips: list[Clip]) -> None:
    dataset = numbered(five_clips, 24, 36)
    options = {"num_ranks": 2, "num_parts": 3}
    batches = [
        numbers_of(MixtureLoader(dataset, 12, rank=rank, **options))  # type: ignore[arg-type]
        for rank in range(2)
    ]
    assert batches[0][:3] == [[24, 25], [26, 27], [28, 29]]
    assert batches[1][:3] == [[30, 31], [32, 33], [34, 35]]
    assert {len(batch) for rank in batches for batch in rank} == {2}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_do_not_change_the_examples(num_workers: int, five_clips: list[Clip]) -> None:
    """Every field is that of the data set. A state after some batches continues with the next."""
    dataset = dataset_of(five_clips, 8, 16, coded_captions([1] * 5), all_captions=True)
    loader = MixtureLoader(dataset, 4, num_workers=num_workers)
    batches = [*loader]
    assert len(batches) == 4
    for i, (step, position) in enumerate(product(range(4), range(4))):
        example: Any = {key: value[position] for key, value in batches[step].items()}
        assert_equal(example, dataset[i])
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["step"] == 4, "steps count from the start of the run"
    resumed = MixtureLoader(dataset_of(five_clips, 0, 24, dataset.captions, all_captions=True), 4)
    resumed.load_state_dict(state)
    assert_equal(next(iter(resumed)), batches[2])


def test_a_state_counts_whole_steps_only(five_clips: list[Clip]) -> None:
    loader = MixtureLoader(numbered(five_clips, 0, 24), 6, num_parts=3)
    steps = []
    for _ in loader:
        steps.append(loader.state_dict()["step"])
    assert steps == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert numbers_of(loader, 1) == [[0, 1]], "the next iteration starts anew"
    loader.load_state_dict({**loader.state_dict(), "step": 3})
    assert len(loader) == 3
    assert numbers_of(loader) == [[18, 19], [20, 21], [22, 23]]
    assert len(loader) == 12


def test_the_generator_of_the_run_is_not_touched(five_clips: list[Clip]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    numbers_of(MixtureLoader(numbered(five_clips, 0, 8), 4, num_workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def changed_loaders(clips: list[Clip]) -> dict[str, MixtureLoader]:
    """Loaders of other data or settings, by what differs."""
    longer = SHORT.model_copy(update={"gain_db": (-3.0, 0.0)})
    table = coded_table(clips)
    table.embeddings.neg_()
    query_audio = QueryAudioConfig(source="other_crop")
    regrouped = [replace(clips[0], group=clips[1].group), *clips[1:]]
    changed = MixtureDataset(clips, SHORT, RATE, coded_table(clips), None, 6, 0, 8)
    return {
        "batch_size: 4, now 2": MixtureLoader(dataset_of(clips, 0, 8), 2),
        "seed: 5, now 6": MixtureLoader(changed, 4),
        "mixtures.gain_db: [-15.0, 9.0], now [-3.0, 0.0]": MixtureLoader(
            dataset_of(clips, 0, 8, config=longer), 4
        ),
        'query_audio.source: "target", now "other_crop"': MixtureLoader(
            dataset_of(clips, 0, 8, query_audio=query_audio), 4
        ),
        "sounds: ": MixtureLoader(dataset_of(regrouped, 0, 8), 4),
        "embeddings: ": MixtureLoader(dataset_of(clips, 0, 8, table=table), 4),
        "captions: ": MixtureLoader(dataset_of(clips, 0, 8, coded_captions([1] * 5)), 4),
        f"sample_rate: {RATE}, now 16000": MixtureLoader(dataset_of(clips, 0, 8, rate=16_000), 4),
    }


def test_the_state_of_other_data_or_settings_is_refused(five_clips: list[Clip]) -> None:
    state = MixtureLoader(dataset_of(five_clips, 0, 8), 4).state_dict()
    for difference, loader in changed_loaders(five_clips).items():
        with pytest.raises(ConfigError) as caught:
            loader.load_state_dict(state)
        assert difference in str(caught.value)
        assert len(str(caught.value)) < 500
        assert numbers_of(loader, 1)[0][0] == 0
    # The numbers of processes, parts and workers, and the part of the run that is left, may change.
    options = {"rank": 1, "num_ranks": 2, "num_parts": 2, "num_workers": 3}
    other = MixtureLoader(dataset_of(five_clips, 4, 40), 4, **options)  # type: ignore[arg-type]
    other.load_state_dict({**state, "step": 1})
    assert {**other.state_dict(), "step": 0} == state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 3}, "is of step 3, and the data set has the steps 0 to 1"),
        ({"step": -1}, "is of step -1"),
        ({"step": "1"}, "is damaged"),
        ({"step": True}, "is damaged"),
        ({"fingerprint": None}, "is damaged"),
        ({"fingerprint": {}}, "and 6 more"),
    ],
)
def test_an_impossible_state_is_refused(
    change: dict[str, object], message: str, five_clips: list[Clip]
) -> None:
    loader = MixtureLoader(dataset_of(five_clips, 0, 8), 4)
    with pytest.raises(ConfigError, match="state of the loader") as caught:
        loader.load_state_dict({**loader.state_dict(), **change})
    assert message in str(caught.value)


def test_steps_that_cannot_be_shared_are_refused(five_clips: list[Clip]) -> None:
    with pytest.raises(ConfigError, match=r"batch_size: 8 mixtures cannot .* a multiple of 6"):
        MixtureLoader(dataset_of(five_clips, 0, 8), 8, num_ranks=3, num_parts=2)
    with pytest.raises(ConfigError, match="begins at mixture 6, inside a step of 4"):
        MixtureLoader(dataset_of(five_clips, 6, 8), 4)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_a_worker_is_that_of_the_sound(
    num_workers: int, three_clips: list[Clip]
) -> None:
    loader = MixtureLoader(dataset_of(three_clips, 0, 8), 4, num_workers=num_workers)
    three_clips[1].path.write_bytes(b"no audio")
    with pytest.raises(AudioError) as caught:
        list(loader)
    assert str(caught.value).startswith(f"{three_clips[1].path}: ")
    assert "\n" not in str(caught.value)


def begun(clips: list[Clip]) -> tuple[Generator[TrainingExample], multiprocessing.Process]:
    """Batches of which one was taken, and the worker that renders the others."""
    others = {*multiprocessing.active_children()}
    batches = MixtureLoader(numbered(clips, 0, 4_000), 4, num_workers=1).__iter__()
    next(batches)
    (worker,) = {*multiprocessing.active_children()} - others
    return batches, worker  # type: ignore[return-value]


def test_a_worker_ends_with_an_iteration_that_is_left(five_clips: list[Clip]) -> None:
    batches, worker = begun(five_clips)
    assert worker.is_alive()
    batches.close()
    assert not worker.is_alive()


def test_ctrl_c_for_all_processes_does_not_end_a_worker(
    five_clips: list[Clip], capfd: pytest.CaptureFixture[str]
) -> None:
    """Its parent, which gets the signal as well, ends the worker."""
    batches, worker = begun(five_clips)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    assert next(batches)["index"].tolist() == [4, 5, 6, 7]
    batches.close()
    assert capfd.readouterr().err == ""
