"""Start the next model from an earlier one, in the space of another encoder or of the same.

In the same space, which is where words are embedded alike, the model is taken over as it is. Else
every weight is taken over but the query layer, which is turned: the linear map from the new
encoder's embeddings of sounds to the old one's, fitted on training sounds, is folded into it. So
the hours that went into an earlier model are not lost whenever the encoder gets better. No caption
has a part in it.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import tarfile
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from singleout.config import load_config
from singleout.data.embeddings import SAMPLE_RATE, given_embeddings
from singleout.data.manifest import Clip, read_manifest
from singleout.data.plan import MixtureConfig
from singleout.data.render import read_crop
from singleout.encoders import BuiltinEncoder, QueryEncoder
from singleout.manipulations import Chain
from singleout.model import ModelConfig, QueriedSeparator
from singleout.train.config import TrainConfig

V0 = "3cf84ae65c21654d63d5772a39245139e5b8fec6"
"""The commit of the first packaged model, 6,500 steps from nothing; its tower starts the next."""
V2 = "e26fac7297951d23486379305f7b391b50a3b9e5"
"""The commit whose packaged extractor is gone on from."""
PACKAGE = "src/singleout/builtin"
NUM_CLIPS = 1_500
RIDGE = 1e-2
"""Of the mean square of an entry."""
PROMPTS = ("a dog barking", "an engine running", "rain falling on leaves")
SAME_WORDS = 1e-3
"""Two encoders that differ by less embed words alike."""


def text_difference(one: QueryEncoder, other: QueryEncoder) -> float:
    """The most that an entry of the embedding of some words differs; infinite where their lengths
    do."""
    if one.dim != other.dim:
        return float("inf")
    return float((one.embed_text(PROMPTS) - other.embed_text(PROMPTS)).abs().max())


def packaged(commit: str, work: Path) -> Path:
    """Folder with the ``encoder`` and the ``extractor`` of a commit, out of the history."""
    folder = work / f"base-{commit[:12]}"
    if not (folder / PACKAGE).exists():
        archive = subprocess.run(
            ["git", "archive", commit, f"{PACKAGE}/encoder", f"{PACKAGE}/extractor"],
            check=True,
            capture_output=True,
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    return folder / PACKAGE


def linear_map(new: Tensor, old: Tensor) -> Tensor:
    """[new dim, old dim]: ridge regression from rows of ``new`` to those of ``old``."""
    new, old = new.double(), old.double()
    gram = new.T @ new
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return torch.linalg.solve(gram, new.T @ old).float()


def old_sounds(clips: list[Clip], config: MixtureConfig, encoder: QueryEncoder) -> Tensor:
    """Embeddings [clips, dim] of every clip's first crop."""
    rows = [
        encoder.embed_audio(read_crop(clip, 0, config, SAMPLE_RATE), SAMPLE_RATE)
        for clip in track(clips, "the old encoder's view")
    ]
    return torch.cat(rows)


def turned(
    config: ModelConfig, encoder: QueryEncoder, previous: QueriedSeparator, to_old: Tensor
) -> QueriedSeparator:
    """A model with the weights of ``previous``, its query layer behind ``to_old``, and without a
    manipulation, which the next training fits.

    Raises:
        ValueError: the two have other sizes.
    """
    plain = config.model_copy(update={"manipulation": Chain()})
    model = QueriedSeparator(plain, encoder)
    state = model.separator.state_dict()  # type: ignore[attr-defined]
    old = previous.separator.state_dict()  # type: ignore[attr-defined]
    weight = old.pop("query.0.weight")
    if previous.config.negative and not config.negative:
        raise ValueError("the previous model takes negative prompts, and this one does not")
    ratio = (previous.condition_dim / model.condition_dim) ** 0.5
    first = torch.zeros_like(state["query.0.weight"])  # negative prompts begin without effect
    for number, side in enumerate(weight.split(to_old.shape[1], 1)):
        first[:, number * len(to_old) :][:, : len(to_old)] = ratio * side @ to_old.T
    other = [k for k, v in old.items() if k not in state or state[k].shape != v.shape]
    if other:
        raise ValueError(f"the previous model is of other sizes: {other[0]}")
    state.update(old, **{"query.0.weight": first})
    model.separator.load_state_dict(state)  # type: ignore[attr-defined]
    return model


def main() -> None:
    """Write the model that the config's ``init`` names."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--commit", default=V2, help="of the packaged model to go on from")
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    if config.init is None:
        print(f"{args.config} starts from nothing")
        return
    assert config.manifest is not None
    assert config.embeddings is not None
    work = config.output.parent
    encoder = BuiltinEncoder.from_pretrained(work / "encoder")
    earlier = packaged(args.commit, work)
    old_encoder = BuiltinEncoder.from_pretrained(earlier / "encoder")
    previous = QueriedSeparator.from_pretrained(earlier / "extractor", old_encoder)
    if text_difference(encoder, old_encoder) < SAME_WORDS:
        previous.save_pretrained(config.init)
        print(f"saved {config.init}; of the same space")
        return
    sounds = read_manifest(config.manifest, "train")
    order = torch.randperm(len(sounds), generator=torch.Generator().manual_seed(0)).tolist()
    clips = [sounds[i] for i in order[:NUM_CLIPS]]
    plan = config.mixtures
    table = given_embeddings(clips, plan, encoder.fingerprint, encoder.dim, config.embeddings)
    new = table.embeddings[list(table.offsets[:-1])]
    old = old_sounds(clips, plan, old_encoder)
    to_old = linear_map(new, old)
    cosine = torch.nn.functional.cosine_similarity(new @ to_old, old).mean()
    torch.manual_seed(config.seed)
    model = turned(config.model, encoder, previous, to_old)
    model.save_pretrained(config.init)
    print(f"saved {config.init}; cosine of the turned embeddings {float(cosine):.3f}")


if __name__ == "__main__":
    main()
