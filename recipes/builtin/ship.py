"""Put the trained extractor into the package, tied to the shipped encoder.

What it is asked in words is brought nearer to sounds first, as DeCap does (``Projection``): fitted
on the training sounds after the training, which it has no part in as long as that hears sounds
alone. Presence is calibrated anew, on such questions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from singleout.config import load_config
from singleout.data.embeddings import given_embeddings
from singleout.model import QueriedSeparator
from singleout.query import BuiltinEncoder
from singleout.query.manipulations import Chain, Projection
from singleout.train.config import TrainConfig
from singleout.train.run import calibrate_presence, examples_of, split_clips, uncaptioned_clips

PACKAGE = Path("src/singleout/builtin")
WORDS = Projection(onto="audio", temperature=0.05, blend=0.7)
"""Chosen on validation mixtures."""


def main() -> None:
    """Check that text is embedded as in training, then save under the shipped encoder's name."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--model", type=Path, help="default: the config's run")
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    assert config.embeddings is not None
    trained_with = BuiltinEncoder.from_pretrained(config.output.parent / "encoder")
    encoder = BuiltinEncoder.from_pretrained(PACKAGE / "encoder")
    prompts = ["a dog barking", "an engine running", "rain falling on leaves"]
    difference = (encoder.embed_text(prompts) - trained_with.embed_text(prompts)).abs().max()
    if difference > 1e-3:
        raise SystemExit(
            f"error: the shipped encoder's text side differs by {float(difference):.4f} from the "
            "one of this run: run recipes.builtin.distil again"
        )
    model = QueriedSeparator.from_pretrained(args.model or config.output / "model", trained_with)
    clips, validation = split_clips(config)
    if config.uncaptioned is not None:
        clips = clips + uncaptioned_clips(config.uncaptioned)
    sounds = given_embeddings(
        clips, config.mixtures, trained_with.fingerprint, trained_with.dim, config.embeddings
    )
    shipped = QueriedSeparator(
        model.config.model_copy(
            update={
                "encoder": model.config.encoder.model_copy(update={"name": "builtin"}),
                "manipulation": Chain(steps=(WORDS, *model.config.manipulation.steps)),
            }
        ),
        encoder,
    )
    shipped.manipulator.fit(examples_of(sounds, None))
    shipped.separator.load_state_dict(model.separator.state_dict())  # type: ignore[attr-defined]
    calibrate_presence(shipped.eval(), validation, config.validation)
    shipped.save_pretrained(PACKAGE / "extractor")
    print(f"saved {PACKAGE / 'extractor'}")


if __name__ == "__main__":
    main()
