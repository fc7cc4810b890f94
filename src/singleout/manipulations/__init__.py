"""Embedding manipulations: what keeps a separator from overfitting to audio queries.

Each has two faces. ``train`` is applied to the embeddings that condition training (of audio, as a
rule), ``infer`` to those that condition inference (of text, as a rule). A face is a deterministic
``map``, which both faces share and which may treat the modalities differently, and, in training
and on audio alone, a random ``corrupt``. At inference, several ``members`` may stand for one
embedding. Randomness comes from the generator that is handed in, so
a run is reproducible to the bit.

Manipulations compose: ``Chain`` lists them, ``Manipulator`` runs them in order. Those that learn
from embeddings (means, components, memories) do so in one ``fit``; what they have learnt is saved
with the model.

What acts on the query's audio before it is embedded (mixup, SpecAugment) is in
``audio_manipulations``.

Source where no other is named: Saijo et al., "Leveraging Audio-Only Data for Text-Queried Target
Sound Extraction", 2024. Rates, variances and sizes are our choices unless said otherwise.
"""

from __future__ import annotations

from singleout.manipulations.base import FitEmbeddings, Manipulation, State
from singleout.manipulations.chain import AnyManipulation, Chain, Manipulator
from singleout.manipulations.corruptions import Dropout, Noise, NoManipulation
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
    "Pca",
    "Pls",
    "Projection",
    "Retrieval",
    "State",
]
