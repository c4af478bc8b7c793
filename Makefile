# make demo   the whole path on the sample data, in a fresh virtual environment
#             DATA=jobs: on a simulated job market
# make test   the whole test suite; what CI runs
# make lint   formatting, style and types

PYTHON ?= python3.11
DATA ?= films
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format clean

demo: $(VENV)/installed
	$(BIN)/python -m activity_embeddings.training.demo --repo feature_repo --data $(DATA)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build runs evaluation *.egg-info feature_repo/evaluation feature_repo/data/snapshots feature_repo/data/vector_tables
	rm -f feature_repo/data/registry.db feature_repo/data/online.db
	rm -f feature_repo/data/registry_redis.db
	rm -f feature_repo/data/activity_events/live-*.parquet
