# Every command of the project. Each target first installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CONFIG ?= configs/builtin.yaml
CODE := src recipes tests benchmarks fuzz launch conftest.py
# Per cent of the lines of src/singleout that `make test` must reach.
COVERAGE_FLOOR ?= 97

.PHONY: demo test test-fast check bench card sounds builtin paper fuzz faults floors clean

# Extract a sound from the recording in examples/, with the model in the package.
demo: $(VENV)/.demo
	$(BIN)/singleout extract examples/mixture.wav "$$(cat examples/query.txt)" -o demo --plot

# All tests and all examples of the docstrings, with coverage.
test: $(VENV)/.dev
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=$(COVERAGE_FLOOR)

# Without the tests that are marked slow, the examples of the docstrings, and coverage.
test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" tests

# Style, format and types.
check: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

# Try every fault at every place, for hours, and fill the tables of docs/reliability.md.
faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults results/faults.json
	$(BIN)/python -m recipes.reliability

# Run the quick tests with the lowest versions that pyproject.toml allows, in a folder of its own.
# Torch is the one of constraints.txt: the lowest one is a download of gigabytes.
FLOORS := .venv-floors
TORCH := $(shell grep -E '^torch==' constraints.txt)
EXTRAS := --extra train --extra plot --extra clap --extra hub
floors:
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check uv "$(TORCH)"
	$(FLOORS)/bin/python -m pip freeze --quiet | grep '^torch==' > $(FLOORS)/torch.txt
	$(FLOORS)/bin/uv pip compile --quiet --python $(FLOORS)/bin/python pyproject.toml $(EXTRAS) \
		--resolution lowest-direct --constraint $(FLOORS)/torch.txt \
		$${PIP_EXTRA_INDEX_URL:+--extra-index-url $$PIP_EXTRA_INDEX_URL} \
		$${PIP_FIND_LINKS:+--find-links $$PIP_FIND_LINKS} --output-file $(FLOORS)/floors.txt
	$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r $(FLOORS)/floors.txt pytest hypothesis scipy torchmetrics
	$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(FLOORS)/bin/python -m pytest --import-mode=importlib -q -o addopts= -o filterwarnings=default \
		tests/cli tests/audio tests/encoders tests/test_public_api.py tests/test_config.py \
		tests/train/test_public_face.py

MANIFEST := $${SINGLEOUT_SOUNDS:-$$HOME/.cache/singleout/sounds}/manifest.jsonl

# Measure speed and quality; quality needs the sounds of `make sounds`.
bench: $(VENV)/.recipes
	$(BIN)/python benchmarks/extract_speed.py
	$(BIN)/python -m benchmarks.long_recordings
	$(BIN)/python benchmarks/encoder_quality.py
	$(BIN)/singleout evaluate $(MANIFEST) -o results/builtin.json
	$(BIN)/singleout evaluate $(MANIFEST) --questions -o results/builtin_questions.json
	$(BIN)/singleout evaluate $(MANIFEST) --questions --sources 3 -o results/builtin_questions_3.json

# Write the model card and the cases to listen to from the results of `make bench`.
card: $(VENV)/.recipes
	$(BIN)/python -m recipes.builtin.showcase --manifest $(MANIFEST)
	$(BIN)/python -m recipes.builtin.card --config $(CONFIG)

# Fetch free sounds. TIER=core, the default, is 1.8 GB of packages; TIER=full is 8.4 GB.
TIER ?= core
sounds: $(VENV)/.recipes
	$(BIN)/python -m recipes.sounds --tier $(TIER)

# Rebuild the query encoder and the extractor that ship in the package.
# CONFIG=configs/permissive.yaml trains on sounds with permissive licences only.
builtin: $(VENV)/.recipes
	$(BIN)/python -m recipes.sounds --tier full --unlabelled
	$(BIN)/python -m recipes.builtin.embed --config $(CONFIG)
	$(BIN)/python -m recipes.builtin.distil --config $(CONFIG) --shards 14 --passes 3
	$(BIN)/python -m recipes.builtin.warm_start --config $(CONFIG)
	$(BIN)/singleout train $(CONFIG)
	$(BIN)/python -m recipes.builtin.ship --config $(CONFIG)

# Run the study of the paper's claims. It resumes, and skips the runs in results/paper/runs.jsonl.
paper: $(VENV)/.recipes
	$(BIN)/python -m recipes.sounds --tier full
	$(BIN)/python -m recipes.paper

# Read 100,000 mutated files with every reader. A file that is neither read nor refused in one
# line is kept in fuzz/findings.
INPUTS ?= 100000
fuzz: $(VENV)/.dev
	$(BIN)/python -m fuzz all --inputs $(INPUTS)

clean:
	rm -rf $(VENV) $(FLOORS) demo

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
