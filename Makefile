# Everything a stranger runs. Each target installs what it needs into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CONFIG ?= configs/builtin.yaml
CODE := src recipes tests benchmarks

.PHONY: demo test check bench card sounds builtin paper clean

demo: $(VENV)/.demo
	$(BIN)/singleout extract examples/mixture.wav "$$(cat examples/query.txt)" -o demo --plot

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

MANIFEST := $${SINGLEOUT_SOUNDS:-$$HOME/.cache/singleout/sounds}/manifest.jsonl

# Speed anywhere; quality needs `make sounds` first.
bench: $(VENV)/.recipes
	$(BIN)/python benchmarks/extract_speed.py
	$(BIN)/python -m benchmarks.long_recordings
	$(BIN)/python benchmarks/encoder_quality.py
	$(BIN)/singleout evaluate $(MANIFEST) -o results/builtin.json
	$(BIN)/singleout evaluate $(MANIFEST) --questions -o results/builtin_questions.json
	$(BIN)/singleout evaluate $(MANIFEST) --questions --sources 3 -o results/builtin_questions_3.json

# The model card and the cases to listen to, of what `make bench` measured.
card: $(VENV)/.recipes
	$(BIN)/python -m recipes.builtin.showcase --manifest $(MANIFEST)
	$(BIN)/python -m recipes.builtin.card --config $(CONFIG)

# TIER=full fetches 8.4 GB of packages, the default core 1.8 GB.
TIER ?= core
sounds: $(VENV)/.recipes
	$(BIN)/python -m recipes.sounds --tier $(TIER)

# The joint embedding and the extractor that ship, from `make sounds TIER=full` and --unlabelled.
# CONFIG=configs/permissive.yaml: of sounds alone whose licences ask for nothing.
builtin: $(VENV)/.recipes
	$(BIN)/python -m recipes.sounds --tier full --unlabelled
	$(BIN)/python -m recipes.builtin.embed --config $(CONFIG)
	$(BIN)/python -m recipes.builtin.distil --config $(CONFIG) --shards 14 --passes 3
	$(BIN)/python -m recipes.builtin.warm_start --config $(CONFIG)
	$(BIN)/singleout train $(CONFIG)
	$(BIN)/python -m recipes.builtin.ship --config $(CONFIG)

# The study of the paper's claims; resumable, skips what results/paper/runs.jsonl has already.
paper: $(VENV)/.recipes
	$(BIN)/python -m recipes.sounds --tier full
	$(BIN)/python -m recipes.paper

clean:
	rm -rf $(VENV) demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[plot]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.recipes: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[train,plot,recipes]'
	touch $@
