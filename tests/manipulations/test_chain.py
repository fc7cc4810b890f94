"""Chains and the module that runs them: order, randomness, learning, devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleout.errors import ModelError
from singleout.manipulations import (
    AnyManipulation,
    Chain,
    Dropout,
    FitEmbeddings,
    Manipulator,
    MeanShift,
    Neighbours,
    Noise,
    NoManipulation,
    Pca,
    Pls,
    Projection,
    Retrieval,
    RowDraws,
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

RANDOM = st.one_of(
    st.builds(Dropout, p=st.floats(0, 0.9), renormalise=st.booleans()),
    st.builds(
        Noise,
        relative_norm=st.floats(0, 3),
        kind=st.sampled_from(["gaussian", "ball"]),
        renormalise=st.booleans(),
    ),
    st.builds(Neighbours, p=st.floats(0.1, 1), reach=st.floats(0.01, 1)),
)
MAPS = st.one_of(
    st.just(NoManipulation()),
    st.builds(MeanShift, renormalise=st.booleans()),
    st.builds(
        Pca,
        k=st.integers(1, 3),
        keep=st.sampled_from(["first", "rest"]),
        centre=st.sampled_from(["own", "audio", "none"]),
        renormalise=st.booleans(),
    ),
    st.builds(Pls, k=st.integers(4, 9), renormalise=st.booleans()),
    st.builds(Retrieval, nearest=st.integers(1, 3), memory=st.integers(3, 40)),
    st.builds(
        Projection,
        onto=st.sampled_from(["audio", "text"]),
        temperature=st.floats(1e-3, 1),
        blend=st.floats(0.1, 1),
        memory=st.integers(1, 40),
    ),
    st.builds(
        Neighbours,
        p=st.just(0.0),
        sounds=st.integers(1, 4),
        candidates=st.integers(1, 40),
        diversity=st.floats(0, 1),
        memory=st.integers(1, 40),
    ),
)


def leaves_captions(chosen: list[AnyManipulation]) -> bool:
    """Whether no step puts few sounds in the place of all captions before several are retrieved."""
    collapsed = False
    for step in chosen:
        if isinstance(step, Retrieval) and step.nearest > 1 and collapsed:
            return False
        collapsed |= isinstance(step, Projection | Neighbours)
        # In one dimension all of unit norm are 1 or -1.
        collapsed |= isinstance(step, Pca) and step.keep == "first" and step.k == 1
    return True


def chains(steps: st.SearchStrategy[AnyManipulation], longest: int = 4) -> st.SearchStrategy[Chain]:
    """With one step at most that shortens, so that enough dimensions are left for it."""
    lists = st.lists(steps, max_size=longest)
    few = lists.filter(lambda chosen: sum(isinstance(step, Pca | Pls) for step in chosen) <= 1)
    return few.filter(leaves_captions).map(lambda chosen: Chain(steps=tuple(chosen)))


# What holds for every chain.


@settings(deadline=None, max_examples=60)
@given(chain=chains(RANDOM | MAPS), seed=st.integers(0, 2**31), text_share=st.floats(0, 1))
def test_every_chain_follows_its_generator_and_spares_its_input_and_text(
    chain: Chain, seed: int, text_share: float
) -> None:
    state = torch.get_rng_state()
    manipulator = fitted(*chain.steps)
    given_ = torch.cat([EXAMPLES.audio[:8], EXAMPLES.text[:8]])
    before = given_.clone()
    learned = {name: tensor.clone() for name, tensor in (manipulator.state or {}).items()}
    is_text = torch.rand(16, generator=seeded(seed)) < text_share

    result = manipulator.for_training(given_, is_text, draws_for(given_, seed))
    assert result.shape == (16, manipulator.dim)
    assert result.dtype == given_.dtype
    assert torch.isfinite(result).all()
    assert torch.equal(result, manipulator.for_training(given_, is_text, draws_for(given_, seed)))

    inferred = manipulator.for_inference(given_, is_text)
    assert inferred.shape == result.shape
    assert torch.equal(inferred, manipulator.for_inference(given_, is_text))
    assert torch.equal(result[is_text], inferred[is_text])  # text is never corrupted

    assert torch.equal(given_, before)
    assert manipulator.state is not None
    assert learned.keys() == manipulator.state.keys()
    assert all(torch.equal(tensor, manipulator.state[name]) for name, tensor in learned.items())
    assert torch.equal(torch.get_rng_state(), state)


@settings(deadline=None, max_examples=30)
@given(chain=chains(MAPS), seed=st.integers(0, 2**31))
def test_without_randomness_training_equals_inference(chain: Chain, seed: int) -> None:
    generators = [np.random.default_rng([seed, row]) for row in range(len(EXAMPLES.audio))]
    draws = RowDraws(generators)
    manipulator = fitted(*chain.steps, Dropout(p=0), Noise(relative_norm=0, renormalise=False))
    for is_text in (False, True):
        given_ = EXAMPLES.text if is_text else EXAMPLES.audio
        result = manipulator.for_training(given_, is_text, draws.of(range(len(given_))))
        assert torch.equal(result, manipulator.for_inference(given_, is_text))
    without = fitted(*chain.steps)
    states = [generator.bit_generator.state for generator in generators]
    without.for_training(EXAMPLES.audio, False, draws)
    # Deterministic steps draw nothing.
    assert [generator.bit_generator.state for generator in generators] == states


@settings(deadline=None, max_examples=40)
@given(
    chain=chains(RANDOM | MAPS, longest=2),
    seed=st.integers(0, 2**31),
    rows=st.lists(st.integers(0, 11), min_size=1, unique=True),
)
def test_a_row_in_training_does_not_depend_on_the_batch_that_it_is_in(
    chain: Chain, seed: int, rows: list[int]
) -> None:
    """So processes that share a batch train on what one process would train on."""
    manipulator = fitted(*chain.steps)
    is_text = torch.arange(12) % 3 == 0
    given_ = EXAMPLES.audio[:12]
    whole = manipulator.for_training(given_, is_text, draws_for(given_, seed))
    some = manipulator.for_training(given_[rows], is_text[rows], draws_for(given_, seed).of(rows))
    close(some, whole[rows], atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(chain=chains(MAPS, longest=1))
def test_rows_do_not_depend_on_each_other(chain: Chain) -> None:
    manipulator = fitted(*chain.steps)
    is_text = torch.arange(12) % 3 == 0
    given_ = EXAMPLES.audio[:12]
    whole = manipulator.for_inference(given_, is_text)
    for row in range(12):
        single = manipulator.for_inference(given_[row : row + 1], is_text[row : row + 1])
        close(single[0], whole[row], atol=1e-4)
    for value in (False, True):
        mask = torch.full((12,), value)
        assert torch.equal(
            manipulator.for_inference(given_, value), manipulator.for_inference(given_, mask)
        )


@settings(deadline=None, max_examples=30)
@given(chain=chains(RANDOM | MAPS))
def test_every_chain_learns_alike_and_survives_json_and_its_state(chain: Chain) -> None:
    assert Chain.model_validate_json(chain.model_dump_json()) == chain
    first, again = fitted(*chain.steps), fitted(*chain.steps)
    assert first.state is not None
    assert again.state is not None
    assert first.state.keys() == again.state.keys()
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert all(tensor.is_contiguous() for tensor in first.state.values())
    restored = Manipulator(chain, DIM, first.state)
    assert restored.dim == first.dim
    for is_text in (False, True):
        given_ = embeddings(5, DIM)
        assert torch.equal(
            restored.for_inference(given_, is_text), first.for_inference(given_, is_text)
        )


def test_an_empty_chain_and_no_manipulation_are_the_identity() -> None:
    given_ = embeddings(8, DIM)
    for chain in (Chain(), Chain(steps=(NoManipulation(),))):
        manipulator = Manipulator(chain, DIM)
        assert manipulator.state == {}
        assert manipulator.dim == DIM
        for is_text in (False, True):
            assert torch.equal(manipulator.for_training(given_, is_text, draws_for(given_)), given_)
            assert torch.equal(manipulator.for_inference(given_, is_text), given_)


def test_a_chain_runs_in_order_from_the_same_draws() -> None:
    dropout, noise = Dropout(p=0.5), Noise(relative_norm=1, renormalise=False)
    given_ = embeddings()
    draws = draws_for(given_)
    expected = noise.corrupt(dropout.corrupt(given_, draws, {}), draws, {})
    manipulator = Manipulator(Chain(steps=(dropout, noise)), 256)
    result = manipulator.for_training(given_, False, draws_for(given_))
    assert torch.equal(result, expected)
    # Noise last leaves no zeros, dropout last does.
    assert not (expected == 0).any()
    manipulator = Manipulator(Chain(steps=(noise, dropout)), 256)
    other = manipulator.for_training(given_, False, draws_for(given_))
    assert (other == 0).float().mean() > 0.4


def test_later_steps_learn_from_the_results_of_earlier_steps() -> None:
    steps: tuple[AnyManipulation, ...] = (
        MeanShift(),
        Pca(k=10, renormalise=False),
        Pls(k=4, renormalise=False),
    )
    manipulator = fitted(*steps)
    assert manipulator.dim == 4
    assert manipulator.state is not None
    examples = EXAMPLES
    for number, step in enumerate(steps):
        single = fitted(step, examples=examples)
        assert single.state is not None
        for name, tensor in single.state.items():
            assert torch.equal(manipulator.state[f"{number}{name[1:]}"], tensor), (number, name)
        examples = FitEmbeddings(
            single.for_inference(examples.audio, False),
            single.for_inference(examples.text, True),
            EXAMPLES.pairs,
        )
    assert torch.equal(manipulator.for_inference(EXAMPLES.text, True), examples.text)
    # The random part of an earlier step is not learned.
    noisy = fitted(Noise(relative_norm=3), steps[1])
    quiet = fitted(NoManipulation(), steps[1])
    assert noisy.state is not None
    assert quiet.state is not None
    assert all(torch.equal(noisy.state[name], quiet.state[name]) for name in quiet.state)


def test_training_mixes_modalities_row_by_row() -> None:
    manipulator = fitted(MeanShift(renormalise=False), Dropout(p=0.5))
    is_text = torch.arange(40) % 2 == 0
    given_ = EXAMPLES.audio[:40]
    result = manipulator.for_training(given_, is_text, draws_for(given_))
    assert torch.equal(result[is_text], manipulator.for_inference(given_[is_text], True))
    audio = manipulator.for_inference(given_[~is_text], False)
    kept = result[~is_text] != 0
    close(result[~is_text], torch.where(kept, 2 * audio, 0.0))
    assert 0.4 < kept.float().mean() < 0.6


CHAINS = [
    (Dropout(p=0.3), Noise(), Noise(kind="ball")),
    (MeanShift(), Pca(k=8), Dropout()),
    (Pls(k=8), Retrieval(nearest=2)),
    (Projection(onto="audio"), Projection(onto="text")),
    (Neighbours(), Dropout()),
]


@pytest.mark.parametrize("steps", CHAINS)
def test_a_manipulator_works_on_another_device(steps: tuple[AnyManipulation, ...]) -> None:
    """The meta device refuses tensors of the CPU, like a GPU does."""
    manipulator = fitted(*steps).to(torch.device("meta"))
    given_ = torch.empty(4, DIM, device="meta")
    is_text = torch.empty(4, dtype=torch.bool, device="meta")
    for which in (True, False, is_text):
        trained = manipulator.for_training(given_, which, draws_for(given_))
        assert trained.device.type == "meta"
        assert (
            trained.shape == manipulator.for_inference(given_, which).shape == (4, manipulator.dim)
        )
        if isinstance(which, bool):
            condition = manipulator.condition(given_, which)
            parts = (condition.embeddings, condition.weights, condition.mask)
            assert all(tensor.device.type == "meta" for tensor in parts)
            assert condition.embeddings.shape == (*condition.weights.shape, manipulator.dim)


# A Manipulator as a module.


@pytest.mark.parametrize("steps", CHAINS)
def test_the_state_follows_the_module_but_is_not_in_its_state_dict(
    steps: tuple[AnyManipulation, ...],
) -> None:
    manipulator = fitted(*steps)
    state = manipulator.state
    assert state is not None
    assert manipulator.state_dict() == {}
    assert list(manipulator.parameters()) == []
    assert len(list(manipulator.buffers())) == len(state)
    model = torch.nn.ModuleDict({"manipulator": manipulator, "other": torch.nn.Linear(2, 2)})
    assert set(model.state_dict()) == {"other.weight", "other.bias"}
    assert all(
        torch.equal(tensor, state[name])
        for name, tensor in (manipulator.to("cpu").state or {}).items()
    )
    model.to("meta")
    moved = manipulator.state
    assert moved is not None
    assert moved.keys() == state.keys()
    for name, tensor in moved.items():
        assert tensor.device.type == "meta"
        assert tensor.shape == state[name].shape


def test_a_new_state_replaces_the_old_one() -> None:
    manipulator, other = fitted(MeanShift()), fitted(MeanShift(), examples=corpus(seed=9))
    assert other.state is not None
    manipulator.state = other.state
    given_ = embeddings(4, DIM)
    assert torch.equal(manipulator.for_inference(given_, True), other.for_inference(given_, True))


def test_a_refused_state_leaves_the_old_one() -> None:
    manipulator = fitted(MeanShift())
    before = dict(manipulator.state or {})
    with pytest.raises(ModelError, match=r"'0.text_mean' is \[31\], expected \[32\]"):
        manipulator.state = {**before, "0.text_mean": torch.zeros(DIM - 1)}
    assert manipulator.state is not None
    assert all(torch.equal(manipulator.state[name], tensor) for name, tensor in before.items())


def test_text_is_corrupted_only_as_a_control() -> None:
    given_, is_text = embeddings(6, DIM), torch.tensor([True, False] * 3)
    for control in (False, True):
        chain = Chain(steps=(Dropout(p=0.5),), corrupt_text=control)
        trained = Manipulator(chain, DIM).for_training(given_, is_text, draws_for(given_))
        assert bool((trained[1::2] == 0).any(-1).all())
        assert torch.equal(trained[::2], given_[::2]) is not control


def test_a_model_may_be_elsewhere_than_its_embeddings() -> None:
    manipulator = Manipulator(Chain(steps=(Neighbours(sounds=2),)), dim=4)
    manipulator.fit(FitEmbeddings(torch.eye(4), torch.eye(4), torch.arange(4)))
    before = manipulator.condition(torch.ones(1, 4), is_text=True)
    manipulator.double()  # stands for another device, which this machine may not have
    after = manipulator.condition(torch.ones(1, 4), is_text=True)
    assert torch.equal(after.embeddings, before.embeddings)
