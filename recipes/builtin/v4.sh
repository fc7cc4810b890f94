#!/bin/sh
# Version 4 from an empty machine to its long run, or on from where that was stopped; one core.
#   nohup nice -n 10 recipes/builtin/v4.sh >> ~/v4.log 2>&1 &
# Where there is no run yet, it starts from the newest committed weights: those of weights/v4 (which
# recipes.builtin.snapshot writes), for the steps that they lack, else the extractor in the package.
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
        # With mixtures of its own, not those that it has learnt from.
        newest=weights/v4 rest="steps=$((184000 - taken)) seed=$((4 + taken))"
    fi
    echo "$rest" >"$work/rest"
    cp -r "$newest" "$work/init.partial"
    mv "$work/init.partial" "$work/init"
fi
# shellcheck disable=SC2046  # words of their own
exec .venv/bin/singleout train configs/v4.yaml $(cat "$work/rest")
