"""The device of an extractor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from singleout import Extractor
from singleout.errors import ModelError
from tests.recordings import RATE, noise


@pytest.mark.parametrize("device", ["auto", "cpu", None])
def test_all_names_of_the_processor_give_the_same(
    debug_model_folder: Path, extractor: Extractor, device: str | None
) -> None:
    other = Extractor.from_pretrained(debug_model_folder, device=device)
    result = other.extract(noise(9_000), "a dog", RATE)
    expected = extractor.extract(noise(9_000), "a dog", RATE)
    np.testing.assert_allclose(result.target, expected.target, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", ["nonsense", "", "cuda", "meta"])
def test_devices_that_do_not_exist_are_refused(debug_model_folder: Path, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used") as raised:
        Extractor.from_pretrained(debug_model_folder, device=device)
    assert "\n" not in str(raised.value)
