"""Put the trained extractor into the package, tied to the shipped encoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from singleout.config import load_config
from singleout.model import QueriedSeparator
from singleout.query import BuiltinEncoder
from singleout.train.config import TrainConfig

PACKAGE = Path("src/singleout/builtin")


def main() -> None:
    """Check that text is embedded as in training, then save under the shipped encoder's name."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--model", type=Path, help="default: the config's run")
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
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
    shipped = QueriedSeparator(
        model.config.model_copy(
            update={"encoder": model.config.encoder.model_copy(update={"name": "builtin"})}
        ),
        encoder,
    )
    shipped.separator.load_state_dict(model.separator.state_dict())  # type: ignore[attr-defined]
    shipped.save_pretrained(PACKAGE / "extractor")
    print(f"saved {PACKAGE / 'extractor'}")


if __name__ == "__main__":
    main()
