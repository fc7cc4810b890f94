"""Examples, states and values that are refused, each in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from singleout.config import validated
from singleout.errors import ConfigError, ModelError
from singleout.manipulations import (
    AnyManipulation,
    Chain,
    Dropout,
    FitEmbeddings,
    Manipulator,
    MeanShift,
    Pca,
    Pls,
    Projection,
    Retrieval,
)
from tests.manipulations.examples import (
    DIM,
    EXAMPLES,
    LEARNING,
    draws_for,
    embeddings,
    fitted,
)

UNCAPTIONED = FitEmbeddings(
    embeddings(20, DIM), torch.zeros(0, DIM), torch.zeros(0, dtype=torch.long)
)
NOTHING = replace(UNCAPTIONED, audio=torch.zeros(0, DIM))


@pytest.mark.parametrize(
    ("step", "examples", "message"),
    [
        (MeanShift(), UNCAPTIONED, "'mean_shift': learns from captions, and there are none"),
        (Pca(k=3), UNCAPTIONED, "'pca': learns from captions, and there are none"),
        (Pls(k=3), UNCAPTIONED, "'pls': learns from captioned sounds, and there are none"),
        (Retrieval(), UNCAPTIONED, "'retrieval': learns from captions, and there are none"),
        (
            Projection(onto="text"),
            UNCAPTIONED,
            "'projection': learns from captions, and there are none",
        ),
        (MeanShift(), NOTHING, "'mean_shift': learns from sounds, and there are none"),
        (Pca(k=3, centre="none"), NOTHING, "'pca': learns from sounds, and there are none"),
        (Projection(), NOTHING, "'projection': learns from sounds, and there are none"),
        (Retrieval(nearest=61), EXAMPLES, "'retrieval': takes the 61 nearest of 60 captions"),
        (Retrieval(nearest=6, memory=5), EXAMPLES, "takes the 6 nearest of 5 captions"),
    ],
)
def test_examples_that_lack_something_are_refused_in_one_line(
    step: AnyManipulation, examples: FitEmbeddings, message: str
) -> None:
    manipulator = Manipulator(Chain(steps=(step,)), DIM)
    with pytest.raises(ConfigError, match=message) as caught:
        manipulator.fit(examples)
    assert "\n" not in str(caught.value)
    assert manipulator.state is None


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Pca(k=DIM + 1),), "'pca': k is 33, embeddings have length 32"),
        ((Pca(k=DIM, keep="rest"),), "'pca': k is 32, embeddings have length 32"),
        ((Pls(k=DIM + 1),), "'pls': k is 33, embeddings have length 32"),
        ((Pca(k=8), Pls(k=9)), "'pls': k is 9, embeddings have length 8"),
        ((Pca(k=30, keep="rest"), Pca(k=3)), "'pca': k is 3, embeddings have length 2"),
    ],
)
def test_too_many_components_are_refused_before_fitting(
    steps: tuple[AnyManipulation, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Manipulator(Chain(steps=steps), DIM)


@pytest.mark.parametrize("step", LEARNING)
def test_a_manipulator_that_is_not_fitted_is_refused(step: AnyManipulation) -> None:
    manipulator = Manipulator(Chain(steps=(Dropout(), step)), DIM)
    assert manipulator.state is None
    for use in (
        lambda: manipulator.for_inference(embeddings(2, DIM), True),
        lambda: manipulator.for_training(embeddings(2, DIM), False, draws_for(embeddings(2, DIM))),
        lambda: manipulator.condition(embeddings(2, DIM), True),
        lambda: manipulator.extend(EXAMPLES),
    ):
        with pytest.raises(ModelError, match="has not been fitted: train it first"):
            use()


WRONG: list[tuple[Callable[[dict[str, Tensor]], object], list[str]]] = [
    (lambda s: s.pop("1.text_mean"), ["'1.text_mean' is missing"]),
    (lambda s: s.clear(), ["'1.audio_mean' is missing", "'2.captions' is missing"]),
    (lambda s: s.update({"1.bases": torch.zeros(1)}), ["'1.bases' is unexpected"]),
    (lambda s: s.update({"0.basis": torch.zeros(1)}), ["'0.basis' is unexpected"]),
    (
        lambda s: s.update({"1.basis": torch.zeros(4, DIM)}),
        [r"'1.basis' is \[4, 32\], expected \[5, 32\]"],
    ),
    (
        lambda s: s.update({"1.basis": torch.zeros(5 * DIM)}),
        [r"'1.basis' is \[160\], expected \[5, 32\]"],
    ),
    (
        lambda s: s.update({"1.basis": s["1.basis"].half()}),
        [r"'1.basis' is torch.float16, expected torch.float32"],
    ),
    (
        lambda s: s.update({"2.captions": torch.zeros(0, 5)}),
        [r"'2.captions' is \[0, 5\], expected \[-1, 5\]"],
    ),
    (
        lambda s: [
            s.pop("1.text_mean"),
            s.update({"2.captions": torch.zeros(9, 4), "x": torch.zeros(1)}),
        ],
        ["'1.text_mean' is missing", r"'2.captions' is \[9, 4\]", "'x' is unexpected"],
    ),
]


@pytest.mark.parametrize(("damage", "messages"), WRONG)
def test_a_state_of_other_steps_is_one_line_that_names_every_tensor(
    damage: Callable[[dict[str, Tensor]], object], messages: list[str]
) -> None:
    chain = Chain(steps=(Dropout(), Pca(k=5), Retrieval()))
    state = dict(fitted(*chain.steps).state or {})
    Manipulator(chain, DIM, state)
    damage(state)
    with pytest.raises(ModelError, match="the manipulation's tensors are wrong") as caught:
        Manipulator(chain, DIM, state)
    assert "\n" not in str(caught.value)
    for message in messages:
        assert caught.match(message)


def test_a_chain_that_learns_nothing_takes_no_tensors() -> None:
    with pytest.raises(ModelError, match=r"'0\.basis' is unexpected"):
        Manipulator(Chain(steps=(Dropout(),)), DIM, {"0.basis": torch.zeros(2, 2)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "dropout", "p": 1.0}, "p'.*less than 1"),
        ({"type": "dropout", "p": -0.1}, "greater than or equal to 0"),
        ({"type": "dropout", "p": float("nan")}, "p'"),
        ({"type": "noise", "relative_norm": -1}, "greater than or equal to 0"),
        ({"type": "noise", "relative_norm": float("inf")}, "finite number"),
        ({"type": "noise", "sigma": 1}, "unknown key 'steps.0.noise.sigma'"),
        ({"type": "noise", "kind": "cube"}, "'gaussian' or 'ball'"),
        ({"type": "mean_shift", "k": 3}, "unknown key 'steps.0.mean_shift.k'"),
        ({"type": "pca", "k": 0}, "greater than 0"),
        ({"type": "pca", "k": 1.5}, "valid integer"),
        ({"type": "pca", "keep": "last"}, "'first' or 'rest'"),
        ({"type": "pca", "centre": "text"}, "'own', 'audio' or 'none'"),
        ({"type": "pls", "k": -1}, "greater than 0"),
        ({"type": "retrieval", "nearest": 0}, "greater than 0"),
        ({"type": "retrieval", "memory": 0}, "greater than 0"),
        ({"type": "projection", "temperature": 0}, "greater than or equal to 0.000001"),
        ({"type": "projection", "onto": "both"}, "'audio' or 'text'"),
        ({"type": "projection", "blend": 0}, "greater than 0"),
        ({"type": "projection", "blend": 1.1}, "less than or equal to 1"),
        ({"type": "neighbours", "p": 1.1}, "less than or equal to 1"),
        ({"type": "neighbours", "reach": 0}, "greater than 0"),
        ({"type": "neighbours", "sounds": 0}, "greater than 0"),
        ({"type": "neighbours", "diversity": -1}, "greater than or equal to 0"),
        ({"type": "neighbours", "temperature": 0}, "greater than or equal to 0.000001"),
        ({"type": "mixup"}, "'mixup'"),
        ({"p": 0.5}, "type"),
    ],
)
def test_wrong_values_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        validated(Chain, {"steps": [values]}, "here")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValidationError):
        TypeAdapter(AnyManipulation).validate_python(values)
