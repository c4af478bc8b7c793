# make demo       the tutorial's commands on the sample data, in a fresh virtual environment
# make evaluate   trains models on the sample data and measures what they add to a ranker;
#                 DATA=eshop, films or jobs (simulated, MEMBERS=n): on other data
# make test-fast  the tests that need no Feast repo, process, server or browser: under a minute
# make test       the whole test suite; what CI runs
# make test-spark its tests on Spark, which need Java; CI leaves them out
# make test-mysql its tests on MySQL, which need MariaDB; CI leaves them out
# make lint       formatting, style, types and layers
# make docs       serves the documentation; make docs-build builds it into site/

# The first Python that the package admits.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
    $$p -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>&- \
    && echo $$p && break; done)
DATA ?= entree
VENV := .venv
BIN := $(VENV)/bin
TRACKED_MODELS := $(addprefix feature_repo/models/,geometric_decay item_encoder unweighted_average)

IMPORTED := import feast.cli.cli, tensorflow, keras, activity_embeddings.training.evaluation.evaluate

# Commands start in half the time where bytecode is kept.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo evaluate test test-fast test-spark test-mysql lint format docs docs-build clean

demo: $(VENV)/installed
	rm -rf build/demo
	$(BIN)/python tools/run_blocks.py docs/tutorial.md --in build/demo --until "Your own data"

evaluate: $(VENV)/installed
	$(BIN)/python -m activity_embeddings.training.demo --data $(DATA) $(if $(MEMBERS),--members $(MEMBERS))

# A file's tests share what is expensive, so they stay in one process.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed
	tools/system-packages.sh redis-server postgresql chromium libgomp1
	$(PYTEST) -m "not spark and not mysql"

test-spark: $(VENV)/installed
	tools/system-packages.sh default-jre-headless
	$(BIN)/python -m pytest -m spark

test-mysql: $(VENV)/installed
	tools/system-packages.sh mariadb-server
	$(BIN)/python -m pip install --quiet "feast[mysql]>=0.67,<0.68"
	$(BIN)/python -m pytest -m mysql

test-fast: $(VENV)/installed
	$(PYTEST) -m "not slow and not process and not redis and not postgres and not browser and not spark and not mysql"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What the theme says of its own future is nothing for readers of these pages.
docs docs-build: export NO_MKDOCS_2_WARNING = 1

docs: $(VENV)/installed
	$(BIN)/mkdocs serve

docs-build: $(VENV)/installed
	$(BIN)/mkdocs build --strict

$(VENV)/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: expected a Python from 3.11 to 3.13, see PYTHON" >&2; false; }
	tools/system-packages.sh $(notdir $(PYTHON))-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev,docs]"
	# pip would compile all modules, one after the other, for plain Python alone. Compiled are those that
	# commands import, for PYTHONOPTIMIZE=1 as well; others are when they are first imported.
	@for option in "" -O; do $(BIN)/python $$option -c "$(IMPORTED)" 2>/dev/null & done; wait
	touch $@

clean:
	rm -rf $(VENV) build site runs evaluation *.egg-info feature_repo/evaluation feature_repo/data/snapshots feature_repo/data/staging feature_repo/data/runs feature_repo/data/vector_tables
	rm -rf $(filter-out $(TRACKED_MODELS),$(wildcard feature_repo/models/*))
	rm -f feature_repo/data/registry.db feature_repo/data/online.db
	rm -f feature_repo/data/registry_redis.db
	rm -f feature_repo/data/activity_events/live-*.parquet
