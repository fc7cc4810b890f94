"""Training of models, from Python.

``TrainConfig`` describes a run, ``train`` runs it and returns the folder of the model. Training
needs the train extra: ``pip install 'singleout[train]'``. ``import singleout.train`` loads neither
torch nor Lightning; both come with the first use of a name.

Configs are frozen pydantic models. Parts of a config may be given as dictionaries, with the same
keys as in a YAML file:

    >>> from singleout.train import TrainConfig
    >>> config = TrainConfig(
    ...     audio="my_sounds", output="run", init="builtin", steps=1_000,
    ...     model={"separator": {"type": "conditioned_unet"}},
    ... )
    >>> config.model.separator.type, config.batch_size
    ('conditioned_unet', 8)

``singleout.config.load_config`` reads a config from YAML or JSON, with changes:

    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from singleout.config import load_config
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "run.json"
    ...     _ = path.write_text(config.model_dump_json())
    ...     load_config(TrainConfig, path, ["steps=100"]).steps
    100

Two steps of a tiny model on three synthetic sounds:

    >>> import os, tempfile
    >>> from pathlib import Path
    >>> from unittest.mock import patch
    >>> import numpy as np
    >>> from singleout import Extractor
    >>> from singleout.audio import write_wav
    >>> from singleout.train import TrainConfig, train
    >>> separator = {
    ...     "type": "conditioned_unet", "num_fft": 256, "hop": 64,
    ...     "channels": [4, 4], "time_strides": [2], "bottleneck": 8, "dilations": [1],
    ... }
    >>> rng = np.random.default_rng(0)
    >>> with (
    ...     tempfile.TemporaryDirectory() as folder,
    ...     patch.dict(os.environ, SINGLEOUT_CACHE=folder),  # of the sounds' embeddings
    ... ):
    ...     sounds = Path(folder) / "sounds"
    ...     sounds.mkdir()
    ...     for number in range(3):
    ...         noise = rng.normal(0, 0.1, (1, 16_000)).astype(np.float32)
    ...         write_wav(sounds / f"{number}.wav", noise, 32_000)
    ...     config = TrainConfig(
    ...         audio=sounds, output=Path(folder) / "run", model={"separator": separator},
    ...         mixtures={"segment_seconds": 0.5, "crop_hop_seconds": 0.25},
    ...         steps=2, batch_size=2, num_workers=0, device="cpu",
    ...     )
    ...     model = train(config)
    ...     extractor = Extractor.from_pretrained(model)
    >>> model.name
    'model'
    >>> mixture = rng.normal(0, 0.1, 8_000).astype(np.float32)
    >>> extractor.extract(mixture, "a dog barking", 32_000).target.shape
    (1, 8000)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from singleout.errors import MissingExtraError

if TYPE_CHECKING:
    from singleout.train.config import TrainConfig, UncaptionedConfig, ValidationConfig
    from singleout.train.run import train

__all__ = ["TrainConfig", "UncaptionedConfig", "ValidationConfig", "train"]

_LAZY = {
    "TrainConfig": "singleout.train.config",
    "UncaptionedConfig": "singleout.train.config",
    "ValidationConfig": "singleout.train.config",
    "train": "singleout.train.run",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'singleout.train' has no attribute {name!r}")
    try:
        return getattr(import_module(_LAZY[name]), name)
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"training needs the train extra ({error}): pip install 'singleout[train]'"
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
