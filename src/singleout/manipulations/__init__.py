"""Manipulations: what keeps a separator from overfitting to audio queries.

Queries are sounds in training and text at inference. Text embeddings lie elsewhere than audio
embeddings, so a separator that follows audio embeddings too closely fails on text. A manipulation
changes the embeddings, in training or at inference or both, to close this gap.

``Chain`` lists manipulations, and ``Manipulator`` runs them in order. It offers three functions:

- ``for_training`` gives the embeddings that condition training. Every step first applies ``map``,
  which is deterministic and may treat the modalities differently. On audio it then applies
  ``corrupt``, which is random and may consider the other sounds of the mixture
  (``OtherSounds``). All random numbers come from the ``RowDraws`` that the caller passes, so that
  a run can be repeated to the bit, with any number of processes.
- ``for_inference`` gives the embeddings at inference: ``map`` without ``corrupt``.
- ``condition`` gives a ``Condition`` at inference, in which several embeddings may stand for one.

Some manipulations learn from embeddings: means, components or memories. They learn in one ``fit``
before training (``FitEmbeddings``), and what they have learned is saved with the model.

``manipulations.audio`` changes the query's audio before it is embedded (mixup, SpecAugment).

The source is Saijo et al., "Leveraging Audio-Only Data for Text-Queried Target Sound Extraction",
2024, unless a class names another. Rates, variances and sizes are our choices unless stated.

Example:
    >>> import torch
    >>> from singleout.manipulations import Chain, Dropout, Manipulator, Noise, RowDraws
    >>> manipulator = Manipulator(Chain(steps=(Noise(), Dropout(p=0.5))), dim=8)
    >>> audio = torch.nn.functional.normalize(torch.ones(1, 8), dim=-1)
    >>> corrupted = manipulator.for_training(audio, False, RowDraws.seeded(0, rows=1))
    >>> torch.equal(corrupted, audio)
    False
    >>> torch.equal(manipulator.for_inference(audio, False), audio)
    True
"""

from __future__ import annotations

from singleout.manipulations.base import FitEmbeddings, Manipulation, OtherSounds, State
from singleout.manipulations.chain import AnyManipulation, Chain, Manipulator
from singleout.manipulations.corruptions import Dropout, Noise, NoManipulation
from singleout.manipulations.draws import RowDraws
from singleout.manipulations.memories import Neighbours, Projection, Retrieval
from singleout.manipulations.projections import MeanShift, Pca, Pls

__all__ = [
    "AnyManipulation",
    "Chain",
    "Dropout",
    "FitEmbeddings",
    "Manipulation",
    "Manipulator",
    "MeanShift",
    "Neighbours",
    "NoManipulation",
    "Noise",
    "OtherSounds",
    "Pca",
    "Pls",
    "Projection",
    "Retrieval",
    "RowDraws",
    "State",
]
