#!/bin/sh
# Trains version 4, from an empty machine to the end of its long run, on one core. Repeat the command
# to resume:
#   nohup nice -n 10 recipes/builtin/v4.sh >> ~/v4.log 2>&1 &
# A new run starts from the newest committed weights. These are weights/v4 if they exist
# (recipes.builtin.snapshot writes them), with the remaining steps. Otherwise they are the extractor
# in the package.
set -eu
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
work="$HOME/.cache/singleout/v4" python=.venv/bin/python
mkdir -p "$work"
make .venv/.recipes
[ -f "$HOME/.cache/singleout/sounds/unlabelled.jsonl" ] ||
    $python -m recipes.sounds --tier full --unlabelled
[ -f "$work/embeddings.sqlite" ] ||
    $python -m recipes.builtin.embed --config configs/v4.yaml --space builtin --jobs 1
if [ ! -d "$work/init" ]; then
    newest=src/singleout/builtin/extractor rest=
    if [ -f weights/v4/step ]; then
        taken=$(cat weights/v4/step)
        # Another seed gives other mixtures than those that the weights were trained on.
        newest=weights/v4 rest="steps=$((184000 - taken)) seed=$((4 + taken))"
    fi
    echo "$rest" >"$work/rest"
    cp -r "$newest" "$work/init.partial"
    mv "$work/init.partial" "$work/init"
fi
# shellcheck disable=SC2046  # the overrides are separate words
exec .venv/bin/singleout train configs/v4.yaml $(cat "$work/rest")
