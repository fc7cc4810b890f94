"""Retrieval, projection and neighbours against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from singleout.manipulations import (
    AnyManipulation,
    Dropout,
    FitEmbeddings,
    MeanShift,
    Neighbours,
    OtherSounds,
    Pca,
    Projection,
    Retrieval,
)
from tests.manipulations.examples import (
    DIM,
    EXAMPLES,
    close,
    corpus,
    draws_for,
    embeddings,
    fitted,
    seeded,
)

# Retrieval.


def test_the_nearest_caption_is_returned_as_it_is() -> None:
    manipulator = fitted(Retrieval())
    retrieved = manipulator.for_inference(EXAMPLES.audio, False)
    nearest = (EXAMPLES.audio @ EXAMPLES.text.T).argmax(1)
    close(retrieved, EXAMPLES.text[nearest], atol=1e-6)
    # The nearest caption to a caption is itself, in either modality; text passes unchanged.
    close(manipulator.for_inference(EXAMPLES.text, False), EXAMPLES.text, atol=1e-6)
    close(manipulator.for_inference(retrieved, False), retrieved, atol=1e-6)
    other = embeddings(5, DIM)
    assert torch.equal(manipulator.for_inference(other, True), other)


@pytest.mark.parametrize("nearest", [2, 5])
def test_several_nearest_captions_are_averaged(nearest: int) -> None:
    retrieved = fitted(Retrieval(nearest=nearest)).for_inference(EXAMPLES.audio, False)
    order = (EXAMPLES.audio @ EXAMPLES.text.T).argsort(1, descending=True)[:, :nearest]
    close(retrieved, F.normalize(EXAMPLES.text[order].mean(1), dim=-1))


def test_a_repeated_caption_counts_once() -> None:
    twice = replace(
        EXAMPLES,
        text=torch.cat([EXAMPLES.text, EXAMPLES.text[:20], EXAMPLES.text[:20]]),
        pairs=torch.cat([EXAMPLES.pairs, EXAMPLES.pairs[:20], EXAMPLES.pairs[:20]]),
    )
    for step in (Retrieval(nearest=3), Projection(onto="text", temperature=0.5)):
        once, more = fitted(step), fitted(step, examples=twice)
        (memory,) = (once.state or {}).values()
        assert len(memory) == 60
        assert torch.equal(
            once.for_inference(EXAMPLES.audio, False), more.for_inference(EXAMPLES.audio, False)
        )


@pytest.mark.parametrize(
    ("kind", "kept_from"),
    [
        (lambda memory: Retrieval(memory=memory), EXAMPLES.text),
        (lambda memory: Projection(onto="text", memory=memory), EXAMPLES.text),
        (lambda memory: Projection(onto="audio", memory=memory), EXAMPLES.audio),
    ],
)
def test_the_memory_is_bounded_and_drawn_with_a_fixed_seed(
    kind: Callable[[int], AnyManipulation], kept_from: Tensor
) -> None:
    def kept(memory: int) -> Tensor:
        state = fitted(kind(memory)).state
        assert state is not None
        (tensor,) = state.values()
        return tensor

    with torch.random.fork_rng():
        torch.manual_seed(1)
        few = kept(25)
        torch.manual_seed(2)
        assert torch.equal(kept(25), few)
    assert few.shape == (25, DIM)
    known = {tuple(row) for row in kept_from.tolist()}
    assert len({tuple(row) for row in few.tolist()} & known) == 25
    for enough in (len(kept_from), 1000):
        assert {tuple(row) for row in kept(enough).tolist()} == known


# Projection.


@pytest.mark.parametrize("onto", ["audio", "text"])
def test_projection_is_a_mean_weighted_by_similarity_and_leaves_its_own_modality(onto: Any) -> None:
    memory = EXAMPLES.audio if onto == "audio" else EXAMPLES.text
    manipulator = fitted(Projection(onto=onto, temperature=0.1))
    given_ = embeddings(20, DIM)
    assert torch.equal(manipulator.for_inference(given_, onto == "text"), given_)
    projected = manipulator.for_inference(given_, onto == "audio")
    weight = torch.exp(given_ @ memory.T / 0.1)
    close(projected, F.normalize(weight @ memory, dim=-1))


@pytest.mark.parametrize("onto", ["audio", "text"])
def test_a_cold_projection_is_the_nearest_neighbour_and_a_hot_one_the_mean(onto: Any) -> None:
    memory = EXAMPLES.audio if onto == "audio" else EXAMPLES.text
    given_ = embeddings(20, DIM)

    def projected(temperature: float) -> Tensor:
        step = Projection(onto=onto, temperature=temperature)
        return fitted(step).for_inference(given_, onto == "audio")

    close(projected(1e-6), memory[(given_ @ memory.T).argmax(1)])
    close(projected(1e6), F.normalize(memory.mean(0), dim=0).expand(20, -1))
    retrieved = fitted(Retrieval()).for_inference(given_, False)
    if onto == "text":
        close(projected(1e-6), retrieved)


@given(blend=st.floats(0.01, 1))
@settings(deadline=None, max_examples=20)
def test_a_blend_lies_between_the_embedding_and_its_projection(blend: float) -> None:
    given_ = embeddings(20, DIM)
    projected = fitted(Projection()).for_inference(given_, True)
    blended = fitted(Projection(blend=blend)).for_inference(given_, True)
    close(blended, F.normalize(blend * projected + (1 - blend) * given_, dim=-1))


# Neighbours.


def test_sounds_near_to_a_text_and_unlike_each_other_stand_for_it() -> None:
    """The reference is a plain loop."""
    memory = torch.unique(EXAMPLES.audio, dim=0)

    def chosen(text: Tensor, sounds: int, candidates: int, diversity: float) -> list[int]:
        pool = sorted(range(len(memory)), key=lambda i: -float(memory[i] @ text))[:candidates]
        rows = [pool.pop(0)]

        def worth(i: int) -> float:
            closest = max(float(memory[i] @ memory[j]) for j in rows)
            return float(memory[i] @ text) - diversity * closest

        while len(rows) < sounds:
            rows.append(max(pool, key=worth))
            pool.remove(rows[-1])
        return rows

    for sounds, candidates, diversity in ((1, 30, 0.5), (6, 30, 0.0), (6, 30, 0.7), (9, 9, 2.0)):
        step = Neighbours(
            sounds=sounds, candidates=candidates, diversity=diversity, temperature=0.2
        )
        manipulator = fitted(step)
        condition = manipulator.condition(EXAMPLES.text, is_text=True)
        parts = condition.embeddings
        similarity = (parts * EXAMPLES.text[:, None]).sum(-1)
        expected = torch.exp(similarity / 0.2)
        close(condition.weights, expected / expected.sum(1, keepdim=True))
        assert parts.shape == (len(EXAMPLES.text), sounds, DIM)
        assert condition.mask.shape == (len(EXAMPLES.text), 1)
        assert condition.mask.all()
        assert torch.equal(parts[:, 0], manipulator.for_inference(EXAMPLES.text, True))
        for row, text in zip(parts, EXAMPLES.text, strict=True):
            close(row, memory[chosen(text, sounds, candidates, diversity)])


def test_a_small_memory_gives_as_many_parts_as_it_has() -> None:
    manipulator = fitted(Neighbours(sounds=8, candidates=600, memory=5))
    condition = manipulator.condition(EXAMPLES.text, is_text=True)
    assert condition.embeddings.shape[1] == condition.weights.shape[1] == 5
    assert all(len(torch.unique(row, dim=0)) == 5 for row in condition.embeddings)
    assert manipulator.for_training(EXAMPLES.audio, False, draws_for(EXAMPLES.audio)).shape == (
        EXAMPLES.audio.shape
    )


def test_sounds_have_one_part_and_later_steps_map_every_part() -> None:
    manipulator = fitted(Neighbours(sounds=4), Pca(k=6, centre="none"))
    audio = manipulator.condition(EXAMPLES.audio, is_text=False)
    assert torch.equal(audio.weights, torch.ones(len(EXAMPLES.audio), 1))
    assert torch.equal(audio.embeddings[:, 0], manipulator.for_inference(EXAMPLES.audio, False))
    assert audio.embeddings.shape[1:] == (1, 6)
    text = manipulator.condition(EXAMPLES.text, is_text=True)
    assert text.embeddings.shape[1:] == (4, 6)
    near = fitted(Neighbours(sounds=4)).condition(EXAMPLES.text, is_text=True)
    close(text.weights, near.weights)
    twice = fitted(Neighbours(sounds=4), Neighbours(sounds=3))
    many = twice.condition(EXAMPLES.text, is_text=True)
    assert many.embeddings.shape[1] == many.weights.shape[1] == 12
    close(many.weights.sum(1), torch.ones(len(EXAMPLES.text)))
    basis = (manipulator.state or {})["1.basis"]
    close(text.embeddings, F.normalize(near.embeddings @ basis.T, dim=-1))


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_a_share_of_the_sounds_is_replaced_by_near_ones(p: float) -> None:
    """Nearer ones are likelier: the rank over the reach is the cube of a uniform number."""
    generator = seeded()
    memory = F.normalize(torch.randn(500, DIM, generator=generator), dim=-1)
    given_ = embeddings(4_000, DIM)
    examples = FitEmbeddings(memory, torch.zeros(0, DIM), torch.zeros(0, dtype=torch.long))
    result = fitted(Neighbours(p=p, reach=0.2), examples=examples).for_training(
        given_, False, draws_for(given_)
    )
    replaced = (result != given_).any(-1)
    assert float(replaced.float().mean()) == pytest.approx(p, abs=0.03)
    if not p:
        return
    similarity = given_ @ memory.T
    to_result = (given_ * result).sum(-1)[:, None]
    rank = (similarity > to_result + 1e-6).sum(-1)[replaced]
    assert int(rank.max()) < 100
    uniform = (rank.float() / 100) ** (1 / 3)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.06)  # ranks are whole numbers
    assert float((rank == 0).float().mean()) == pytest.approx(0.01 ** (1 / 3), abs=0.04)


def test_a_conditional_neighbour_is_nearer_to_its_sound_than_to_the_other_sounds() -> None:
    """Only fitting sounds are drawn, by their rank. Unknown other sounds change nothing."""
    generator = seeded()
    memory = F.normalize(torch.randn(400, DIM, generator=generator), dim=-1)
    examples = FitEmbeddings(memory, torch.zeros(0, DIM), torch.zeros(0, dtype=torch.long))
    audio = embeddings(1_000, DIM)
    # Of the first 500 mixtures, the second other sound is very similar to the query. The others
    # have one other sound: what the mask leaves out must not count, even the query itself.
    rows = torch.stack([embeddings(1_000, DIM, seed=8), audio], 1)
    rows[:500, 1] = F.normalize(audio[:500] + 0.5 * rows[:500, 0], dim=-1)
    rows[0, 1] = audio[0]
    mask = torch.ones(1_000, 2, dtype=torch.bool)
    mask[500:, 1] = False
    others = OtherSounds(rows, mask)
    plain = fitted(Neighbours(p=1.0, reach=0.5), examples=examples)
    conditional = fitted(Neighbours(p=1.0, reach=0.5, conditional=True), examples=examples)

    def is_nearer(result: Tensor) -> Tensor:
        to_others = (rows @ result[:, :, None])[:, :, 0].masked_fill(~mask, -2).amax(1)
        return (result * audio).sum(-1) > to_others

    unconditional = plain.for_training(audio, False, draws_for(audio), others)
    assert torch.equal(unconditional, conditional.for_training(audio, False, draws_for(audio)))
    assert float(is_nearer(unconditional).float().mean()) < 0.8
    result = conditional.for_training(audio, False, draws_for(audio), others)
    assert torch.equal(result[0], audio[0])  # no sound fits
    assert is_nearer(result)[1:].all()
    rank = (audio @ memory.T > (audio * result).sum(-1)[:, None] + 1e-6).sum(-1)
    assert int(rank.max()) < 200
    assert float(rank[500:].float().mean()) > 20  # a single other sound excludes few
    uniform = draws_for(audio).uniform(2)[:, 1]
    for row in (3, 700):  # rows do not depend on each other
        known = rows[row][mask[row]]
        fits = [
            place
            for place in (audio[row] @ memory.T).topk(200).indices.tolist()
            if all(memory[place] @ audio[row] > memory[place] @ other for other in known)
        ]
        assert torch.equal(result[row], memory[fits[int(len(fits) * uniform[row] ** 3)]])


def test_the_other_sounds_are_mapped_like_the_query() -> None:
    """They are compared in the space of the step that compares."""
    chain = (Pca(k=6), Neighbours(p=1.0, reach=0.5, conditional=True))
    manipulator = fitted(*chain)
    audio, other = EXAMPLES.audio[:20], EXAMPLES.audio[20:40]
    rows = torch.stack([other, torch.zeros_like(other)], 1)
    mask = torch.tensor([[True, False]]).expand(20, -1)
    result = manipulator.for_training(audio, False, draws_for(audio), OtherSounds(rows, mask))
    to_query, to_other = (
        (result * manipulator.for_inference(sounds, False)).sum(-1) for sounds in (audio, other)
    )
    assert (to_query > to_other).all()


@pytest.mark.parametrize("size", [500, 100])
def test_new_sounds_join_a_memory(size: int) -> None:
    """Sounds that the memory holds already do not join, even if they were rounded."""
    manipulator = fitted(Neighbours(memory=size), Dropout())
    before = (manipulator.state or {})["0.memory"].clone()
    new = embeddings(30, DIM)
    rounded = F.normalize(EXAMPLES.audio.half().float(), dim=-1)
    manipulator.extend(replace(EXAMPLES, audio=torch.cat([rounded, new, new[:3]])))
    after = (manipulator.state or {})["0.memory"]
    assert len(after) == min(size, len(before) + 30)
    if size == 500:
        assert torch.equal(after[: len(before)], before)
        close((after[len(before) :] @ new.T).amax(0), torch.ones(30))
    near = manipulator.condition(new, is_text=True)
    assert near.embeddings.shape == (30, 4, DIM)


def test_new_sounds_change_neither_means_nor_components() -> None:
    manipulator = fitted(MeanShift(), Pca(k=5))
    before = {name: tensor.clone() for name, tensor in (manipulator.state or {}).items()}
    manipulator.extend(corpus(seed=8))
    assert (manipulator.state or {}).keys() == before.keys()
    assert all(torch.equal((manipulator.state or {})[name], before[name]) for name in before)
