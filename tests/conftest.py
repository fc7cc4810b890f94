"""A tiny but real model, built once per session and used through the public API."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

from singleout.encoders import BuiltinEncoder
from singleout.encoders.builtin import BuiltinNetwork
from singleout.extract import Extractor
from singleout.model import EncoderReference, ModelConfig, QueriedSeparator
from singleout.model.similarity import PresenceCalibration
from singleout.separators import ConditionedUNetConfig, IdentityConfig

# The time of an example depends on what else the machine does.
settings.register_profile("singleout", deadline=None)
settings.load_profile("singleout")

TINY_SEPARATOR = ConditionedUNetConfig(
    num_fft=512,
    hop=128,
    fold=4,
    channels=(8, 8, 8),
    time_strides=(2, 1),
    bottleneck=16,
    dilations=(1, 2),
    query_dim=16,
)


def tiny_tokenizer() -> str:
    """A word-piece tokenizer over single letters, as JSON."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return str(tokenizer.to_str())


def randomise_statistics(module: nn.Module) -> None:
    """Randomise the statistics of BatchNorm layers, which are the identity before training."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.8, 1.2)


ACCEPT_SIGNALS = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "hasattr(signal, 'SIGHUP') and signal.signal(signal.SIGHUP, signal.SIG_DFL); "
)
"""First statements of a process that must react to Ctrl-C and to a closed terminal.

A process in the background, or under nohup, ignores these signals, and its children inherit that.
"""


def write_debug_encoder(folder: Path) -> None:
    """Save a tiny built-in encoder with fixed random weights."""
    config = {
        "dim": 32,
        "text_hidden": 16,
        "sentence": {"vocabulary": 76, "dim": 24, "num_layers": 1, "num_heads": 2, "hidden": 32},
        "audio_channels": [8, 8, 8, 8, 8],
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = BuiltinNetwork(config)
        words = network.sentence.words
        words.weight.copy_(torch.randint(-127, 128, words.weight.shape))
        words.scale.fill_(0.02)
        randomise_statistics(network)
    BuiltinEncoder(network, tiny_tokenizer(), config).save_pretrained(folder)


@pytest.fixture(scope="session")
def debug_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny built-in encoder."""
    folder = tmp_path_factory.mktemp("debug-encoder")
    write_debug_encoder(folder)
    return folder


@pytest.fixture(scope="session")
def debug_encoder(debug_encoder_folder: Path) -> BuiltinEncoder:
    """The tiny built-in encoder."""
    return BuiltinEncoder.from_pretrained(debug_encoder_folder)


@pytest.fixture(scope="session")
def debug_model_folder(
    tmp_path_factory: pytest.TempPathFactory,
    debug_encoder: BuiltinEncoder,
    debug_encoder_folder: Path,
) -> Path:
    """Folder of a tiny model. Its config names the folder of the tiny encoder."""
    folder = tmp_path_factory.mktemp("debug-model")
    config = ModelConfig(
        separator=TINY_SEPARATOR, encoder=EncoderReference(name=str(debug_encoder_folder))
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = QueriedSeparator(config, debug_encoder)
        randomise_statistics(model)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def debug_model(debug_model_folder: Path) -> QueriedSeparator:
    """The tiny model, without negative prompts and without presence."""
    return QueriedSeparator.from_pretrained(debug_model_folder)


@pytest.fixture(scope="session")
def extractor(debug_model: QueriedSeparator) -> Extractor:
    """An extractor of ``debug_model`` with chunks of half a second."""
    return Extractor(debug_model, chunk_seconds=0.5)


@pytest.fixture(scope="session")
def calibrated_model_folder(
    tmp_path_factory: pytest.TempPathFactory,
    debug_encoder: BuiltinEncoder,
    debug_encoder_folder: Path,
) -> Path:
    """Folder of a tiny model that takes negative prompts and whose presence is calibrated."""
    folder = tmp_path_factory.mktemp("calibrated-model")
    config = ModelConfig(
        separator=TINY_SEPARATOR,
        encoder=EncoderReference(name=str(debug_encoder_folder)),
        negative=True,
        presence=PresenceCalibration(scale=3.0, bias=-0.2),
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = QueriedSeparator(config, debug_encoder)
        randomise_statistics(model)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def calibrated_model(calibrated_model_folder: Path) -> QueriedSeparator:
    """The tiny model with negative prompts and presence."""
    return QueriedSeparator.from_pretrained(calibrated_model_folder)


@pytest.fixture(scope="session")
def calibrated_extractor(calibrated_model: QueriedSeparator) -> Extractor:
    """An extractor of ``calibrated_model`` with chunks of half a second."""
    return Extractor(calibrated_model, chunk_seconds=0.5)


@pytest.fixture(scope="session")
def identity_model(debug_encoder: BuiltinEncoder) -> QueriedSeparator:
    """A model that returns the mixture for every query."""
    return QueriedSeparator(ModelConfig(separator=IdentityConfig()), debug_encoder)


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The ``singleout`` command, for a subprocess."""
    return [sys.executable, "-c", f"{ACCEPT_SIGNALS}from singleout.cli import main; main()"]
