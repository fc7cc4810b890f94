"""Start the next model from an earlier one, with the same encoder or with another one.

Command: ``python -m recipes.builtin.warm_start [--config FILE] [--commit C]``, a step of ``make
builtin``.

If both encoders embed words alike, the earlier model is copied. Otherwise every weight is copied
except for those of the query layer. Into that layer, the linear map from the new encoder's
embeddings of sounds to those of the old encoder is folded. The map is fitted on training sounds
without captions. So a better encoder does not waste the hours that went into an earlier model.
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
from singleout.data.clips import Clip
from singleout.data.embeddings import SAMPLE_RATE, given_embeddings
from singleout.data.manifest import read_manifest
from singleout.data.plan import MixtureConfig
from singleout.data.render import read_crop
from singleout.encoders import BuiltinEncoder, QueryEncoder
from singleout.manipulations import Chain
from singleout.model import ModelConfig, QueriedSeparator
from singleout.train.config import TrainConfig

V0 = "3cf84ae65c21654d63d5772a39245139e5b8fec6"
"""Commit of the first packaged model, trained for 6,500 steps from nothing. New audio towers start
from its tower."""
V2 = "e26fac7297951d23486379305f7b391b50a3b9e5"
"""Commit of the packaged extractor that the next model starts from."""
PACKAGE = "src/singleout/builtin"
NUM_CLIPS = 1_500
RIDGE = 1e-2
"""Ridge of the regression, relative to the mean square of an entry."""
PROMPTS = ("a dog barking", "an engine running", "rain falling on leaves")
SAME_WORDS = 1e-3
"""Two encoders whose text embeddings differ by less have the same space."""


def text_difference(one: QueryEncoder, other: QueryEncoder) -> float:
    """Largest difference of an entry between two encoders' embeddings of some texts.

    It is infinite if their embeddings differ in length.
    """
    if one.dim != other.dim:
        return float("inf")
    return float((one.embed_text(PROMPTS) - other.embed_text(PROMPTS)).abs().max())


def packaged(commit: str, work: Path) -> Path:
    """Folder with the ``encoder`` and the ``extractor`` of a commit, from the git history.

    Args:
        commit: its hash.
        work: folder for the files.
    """
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
    """Ridge regression from rows of ``new`` to rows of ``old``, [new dim, old dim]."""
    new, old = new.double(), old.double()
    gram = new.T @ new
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    solution: Tensor = torch.linalg.solve(gram, new.T @ old)
    return solution.float()


def old_sounds(clips: list[Clip], config: MixtureConfig, encoder: QueryEncoder) -> Tensor:
    """Embeddings of the first crop of each clip, [clips, dim]."""
    rows = [
        encoder.embed_audio(read_crop(clip, 0, config, SAMPLE_RATE), SAMPLE_RATE)
        for clip in track(clips, "the old encoder")
    ]
    return torch.cat(rows)


def with_query_map(
    config: ModelConfig, encoder: QueryEncoder, previous: QueriedSeparator, to_old: Tensor
) -> QueriedSeparator:
    """A model with the weights of ``previous`` and with ``to_old`` folded into its query layer.

    The model has no manipulation: the next training fits one.

    Args:
        config: of the new model.
        encoder: of the new model.
        previous: the earlier model.
        to_old: map from the embeddings of ``encoder`` to those of the old one, [new dim, old dim].

    Raises:
        ValueError: the models have different sizes, or only the old one takes negative prompts.
    """
    plain = config.model_copy(update={"manipulation": Chain()})
    model = QueriedSeparator(plain, encoder)
    state = model.separator.state_dict()
    old = previous.separator.state_dict()
    weight = old.pop("query.0.weight")
    if previous.config.negative and not config.negative:
        raise ValueError("the previous model takes negative prompts, but the new model does not")
    ratio = (previous.condition_dim / model.condition_dim) ** 0.5
    first = torch.zeros_like(
        state["query.0.weight"]
    )  # new negative prompts have no effect at first
    for number, side in enumerate(weight.split(to_old.shape[1], 1)):
        first[:, number * len(to_old) :][:, : len(to_old)] = ratio * side @ to_old.T
    other = [k for k, v in old.items() if k not in state or state[k].shape != v.shape]
    if other:
        raise ValueError(f"the previous model has another size of '{other[0]}'")
    state.update(old, **{"query.0.weight": first})
    model.separator.load_state_dict(state)
    return model


def main() -> None:
    """Write the model that the config's ``init`` names."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--commit", default=V2, help="of the packaged model to start from")
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
        print(f"saved {config.init}, a copy: both encoders have the same space")
        return
    sounds = read_manifest(config.manifest, "train")
    order = torch.randperm(len(sounds), generator=torch.Generator().manual_seed(0)).tolist()
    clips = [sounds[i] for i in order[:NUM_CLIPS]]
    plan = config.mixtures
    table = given_embeddings(clips, plan, encoder.fingerprint, encoder.dim, config.embeddings)
    new = table.first_crops()
    old = old_sounds(clips, plan, old_encoder)
    to_old = linear_map(new, old)
    cosine = torch.nn.functional.cosine_similarity(new @ to_old, old).mean()
    torch.manual_seed(config.seed)
    model = with_query_map(config.model, encoder, previous, to_old)
    model.save_pretrained(config.init)
    print(f"saved {config.init}; cosine of the mapped embeddings {float(cosine):.3f}")


if __name__ == "__main__":
    main()
