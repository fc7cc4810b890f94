"""Put the trained extractor into the package, with the shipped encoder.

Command: ``python -m recipes.builtin.ship [--config FILE]``, the last step of ``make builtin``.

The manipulation is that of the config, which may have changed since the training: its settings for
text queries are chosen on validation mixtures afterwards. Presence is calibrated again, with the
shipped encoder.

Version 4 ships without this recipe, because it is trained in the space of the shipped encoder.
``python -m recipes.builtin.snapshot src/singleout/builtin/extractor --calibrate`` saves it there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.builtin.warm_start import SAME_WORDS, text_difference
from singleout.config import load_config
from singleout.encoders import BuiltinEncoder
from singleout.manipulations import Manipulator
from singleout.model import EncoderReference, QueriedSeparator
from singleout.train.config import TrainConfig
from singleout.train.corpus import split_clips
from singleout.train.run import calibrate, quietest_db

PACKAGE = Path("src/singleout/builtin")


def main() -> None:
    """Check that both encoders embed text alike, then save the extractor into the package."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--model", type=Path, help="default: the model of the config's run")
    parser.add_argument("--package", type=Path, default=PACKAGE)
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config)
    trained_with = BuiltinEncoder.from_pretrained(config.output.parent / "encoder")
    encoder = BuiltinEncoder.from_pretrained(args.package / "encoder")
    if (difference := text_difference(encoder, trained_with)) > SAME_WORDS:
        raise SystemExit(
            f"error: text embeddings of the shipped encoder differ by {difference:.4f} from those "
            "of this run: run recipes.builtin.distil again"
        )
    model = QueriedSeparator.from_pretrained(args.model or config.output / "model", trained_with)
    chain = config.model.manipulation
    changes = {
        "encoder": EncoderReference(),
        "manipulation": chain,
        "presence": None,
        "gate": None,
        "quietest_db": quietest_db(config.mixtures),
    }
    shipped = QueriedSeparator(model.config.model_copy(update=changes), encoder)
    shipped.manipulator = Manipulator(chain, encoder.dim, model.manipulator.state)
    shipped.separator.load_state_dict(model.separator.state_dict())
    calibrate(shipped.eval(), split_clips(config)[1], config.validation)
    shipped.save_pretrained(args.package / "extractor")
    print(f"saved {args.package / 'extractor'}")


if __name__ == "__main__":
    main()
