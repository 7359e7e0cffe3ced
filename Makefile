# One command, one truth: what these targets say on a laptop is what continuous integration says.
# Needs nothing but Python 3.11 or newer. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIGHT := .venv-light
LIGHT_STAMP := $(LIGHT)/.installed
UV := uv==0.13.9
PYTHONS := 3.11 3.12 3.13 3.14
PROCESSES ?= 2
PEERS := $(VENV)/bench/.installed
MINIO := v0.0.0-20260212201848-7aac2a2c5b7c
VALE := v3.22.0
PAGES := $(wildcard *.md) docs examples/README.md helm/darkroom/README.md inference/tiny/trained/README.md
SEEDS ?= 1000
SEED ?= 1
MINUTES ?= 10
CODE := setup.py darkroom schemas inference producer consumer tools tests docs
LIGHT_CODE := -p darkroom.schemas -p darkroom.producer -p darkroom.consumer
LIGHT_TESTS := tests/schemas tests/consumer tests/producer $(wildcard tests/test_*.py)
PARALLEL := -n $(PROCESSES) --dist loadscope --no-loadscope-reorder --durations=20
COMPILE := pip compile --python-version 3.11 --universal --upgrade --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --quiet
# What mypy and import-linter see in place of the editable install's finder, which neither can follow.
define TYPING
	@mkdir -p $(1)/typing/darkroom
	@for part in darkroom/__init__.py darkroom/__main__.py darkroom/command_line.py darkroom/py.typed schemas inference producer consumer tools; do \
		ln -sfn $(CURDIR)/$$part $(1)/typing/darkroom/$$(basename $$part); done
endef

.DEFAULT_GOAL := help
.PHONY: help setup setup-light demo test words test-light test-pythons test-chart test-autoscale test-operations \
	control-plane check check-light trace-demo proofs simulate chaos bench bench-gpu quality docs schemas lock check-lock clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 18

setup: $(STAMP) ## Make .venv and install everything, pinned by requirements.lock.

$(STAMP): requirements.lock pyproject.toml setup.py
	@echo "== Setting up $(VENV): about 6 GB, most of it torch; minutes on a slow connection"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(call TYPING,$(VENV))
	@touch $(STAMP)
	@echo "== $(VENV) is ready"

setup-light: $(LIGHT_STAMP) ## Make .venv-light: no torch, for check-light and test-light. A minute.

$(LIGHT_STAMP): requirements-light.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 2; }
	@test -x $(LIGHT)/bin/python || $(PYTHON) -m venv $(LIGHT)
	@$(LIGHT)/bin/python -m pip install --quiet --disable-pip-version-check $(UV)
	@$(LIGHT)/bin/uv pip install --quiet --python $(LIGHT)/bin/python --require-hashes -r requirements-light.lock
	@$(LIGHT)/bin/uv pip install --quiet --python $(LIGHT)/bin/python --no-deps --no-build-isolation --editable .
	$(call TYPING,$(LIGHT))
	@touch $(LIGHT_STAMP)
	@echo "== $(LIGHT) is ready"

demo: setup ## Show the whole of it: a real Kafka, a real S3 server, a worker, pictures in demo-out/.
	@$(BIN)/darkroom demo

trace-demo: setup ## Trace twelve requests from HTTP to their completions; writes trace-out/trace.json for a viewer.
	@$(BIN)/python -m tests.tracing

test: setup ## Run the whole suite in PROCESSES processes (default 2), on a real Kafka and a real S3 server.
	@echo "== Running the tests; the embedded Kafka is fetched on the first run"
	@$(BIN)/python -m pytest $(PARALLEL)

test-light: setup-light ## Run the tests of schemas, core, gateway and clients that need neither torch nor servers: 2 minutes.
	@$(LIGHT)/bin/python -m pytest $(PARALLEL) -m "not (stack or render or proof)" $(LIGHT_TESTS)

test-pythons: setup-light check-lock ## test-light on every Python from 3.11 on that this machine has.
	@all="$$(pyenv versions --bare 2>/dev/null | paste -sd: -)"; [ -z "$$all" ] || export PYENV_VERSION="$$all"; \
	for version in $(PYTHONS); do \
		python$$version -c '' 2>/dev/null || { echo "== There is no Python $$version on this machine"; continue; }; \
		echo "== Python $$version"; \
		$(MAKE) --no-print-directory test-light LIGHT=.venv-light/$$version PYTHON=python$$version || exit 1; \
	done

test-chart: setup ## The chart, its alerts and dashboard, and the images: rendered, linted, checked. Part of `make test`.
	@$(BIN)/python -m pytest tests/helm tests/stack/test_compose.py

test-autoscale: setup ## Prove on a real control plane that lag moves the fleet; needs make control-plane once.
	@$(BIN)/python -m pytest -m proof tests/autoscale tests/helm
	@$(BIN)/python -m tests.autoscale

test-operations: setup ## Run every command of the chart's operations on that control plane, as its README has them.
	@$(BIN)/python -m tests.autoscale.operations

control-plane: setup ## Build etcd's company (Kubernetes, KEDA, Helm) for the two above: once, 28 minutes, 11 GB.
	@$(BIN)/python -m tests.autoscale.build

check: setup ## Lint, types, import rules and words: fast.
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/mypy docs/_generate.py
	@cd $(VENV)/typing && ../bin/lint-imports --config ../../pyproject.toml --no-cache
	@$(BIN)/python -m tests.helm.lint
	@$(MAKE) --no-print-directory words

words: ## Check the words of the pages with Vale, where it is installed. Part of `make check`.
	@if vale=$$(command -v $(abspath $(BIN))/vale || command -v vale); then $$vale --glob='!docs/_build/**' $(PAGES); \
		else echo "== Vale is not installed, so the words of the pages were not checked: make $(BIN)/vale builds it"; fi

check-light: setup-light ## Lint everything, check the types of what does not render.
	@$(LIGHT)/bin/ruff check $(CODE)
	@$(LIGHT)/bin/ruff format --check $(CODE)
	@MYPYPATH=$(LIGHT)/typing $(LIGHT)/bin/mypy --follow-imports=silent --disable-error-code=import-not-found $(LIGHT_CODE)

check-lock: setup-light ## Show that each pinned package has a wheel for each Python.
	@for version in $(PYTHONS); do \
		$(LIGHT)/bin/uv pip compile requirements.lock --python-version $$version --only-binary :all: --quiet \
			--no-header --output-file $(LIGHT)/$$version.txt && echo "== The lock resolves for Python $$version" || exit 1; \
	done

proofs: setup $(BIN)/minio ## What takes long: rights, rolling restarts for MINUTES, generated clients, a third S3 server; needs Node, a JDK, Maven, Go.
	@$(BIN)/python -m tests.cluster.rights_proof
	@$(BIN)/python -m tests.generators
	@$(BIN)/python -m pytest -m "proof or not proof" tests/strangers/test_buckets.py tests/strangers/test_foreign_bucket.py \
		tests/strangers/test_s3_rights.py
	@$(BIN)/python -m tests.cluster --minutes $(MINUTES)

$(BIN)/vale: | $(STAMP)
	@command -v go >/dev/null || { echo "Go 1.25 or newer is needed to build Vale"; exit 2; }
	@echo "== Building Vale: once, a minute of processor time"
	@GOBIN=$(abspath $(BIN)) go install github.com/vale-cli/vale/v3/cmd/vale@$(VALE)

$(BIN)/minio: | $(STAMP)
	@command -v go >/dev/null || { echo "Go 1.24 or newer is needed to build MinIO"; exit 2; }
	@echo "== Building MinIO: once, five minutes of processor time"
	@GOBIN=$(abspath $(BIN)) go install github.com/minio/minio@$(MINIO)

simulate: setup ## Run SEEDS seeds of the simulation (default 1000).
	@$(BIN)/python -m tests.simulation --seeds 0..$(SEEDS) --processes 2

chaos: setup ## Break real workers, Kafka and S3 for MINUTES minutes (default 10), and audit.
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES)

bench: setup $(PEERS) ## Measure, alone and beside its peers; writes bench-out/report.md and bench-out/peers/report.md.
	@$(BIN)/python -m tests.bench --out bench-out $(if $(BESIDE),--beside $(BESIDE))
	@$(BIN)/python -m tests.bench.peers --out bench-out/peers --seed $(SEED)

$(PEERS): requirements-bench.lock $(STAMP)
	@echo "== Installing what only the bench's peers need: 400 MB, beside the rest"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(VENV)/bench --require-hashes -r requirements-bench.lock
	@touch $(PEERS)

bench-gpu: setup ## SDXL at full size with random weights on a GPU; writes bench-out/gpu.md. Without a GPU: says so.
	@$(BIN)/python -m tests.bench.gpu --out bench-out

quality: setup ## Measure what the built-in model paints; writes quality-out/contact-sheet.png.
	@$(BIN)/python -m darkroom.tools.tiny.quality --out quality-out

docs: setup ## Build the documentation into docs/_build; warnings are errors, and links are checked offline.
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs docs/_build
	@echo "== docs/_build/index.html"

schemas: setup ## Write the published JSON Schemas, AsyncAPI, and the chart's schema of settings and dashboard again.
	@$(BIN)/darkroom schemas --write schemas/published
	@$(BIN)/python -m tests.helm.values_schema
	@$(BIN)/python -m tests.helm.dashboard

lock: setup ## Refresh the lock files to the newest versions that pyproject.toml allows.
	@$(BIN)/uv $(COMPILE) pyproject.toml --all-extras --output-file requirements.lock
	@$(BIN)/uv $(COMPILE) pyproject.toml --extra light --constraint requirements.lock --no-annotate --output-file requirements-light.lock
	@$(BIN)/uv $(COMPILE) --group bench --constraint requirements.lock --no-annotate --output-file requirements-bench.lock

clean: ## Remove what the targets made, .venv included.
	rm -rf $(VENV) $(LIGHT) docs/_build bench-out demo-out trace-out quality-out .hypothesis .mypy_cache .ruff_cache *.egg-info
