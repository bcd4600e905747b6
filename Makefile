# Everything a contributor runs. Needs Python 3.10 to 3.13 and make; the first command installs the rest.
# Large installs (ComfyUI, torch) go to a cache that all clones share: $XALORA_DEV_CACHE.

# The first Python that is new enough and not too new.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)

# Photographs for `make demo`: make demo IMAGES="a.jpg b.png"
IMAGES ?=

# Benchmarks for `make bench`: make bench BENCH="polling upload"
BENCH ?= $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_% benchmarks/soak.py,$(wildcard benchmarks/*.py)))

# Definitions for `make definitions`: make definitions DEFINITIONS="flux-lora"
DEFINITIONS ?=

BIN = .venv/bin
MADE = .artifacts .mypy_cache .ruff_cache .pytest_cache tests/.pytest_cache build dist .venv

.DEFAULT_GOAL := help
.PHONY: help setup comfyui demo test test-quick chaos cluster-test fuzz soak bench definitions lint node-docs format clean \
	docs lint-rules lint-format lint-docs types-client types-nodes types-scripts

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do printf 'make %-12s %s\n' "$$name" "$$what"; done

setup: .venv/.installed ## Make .venv with the package, its extras and the tools

.venv/.installed: pyproject.toml requirements-dev.txt requirements-lock.txt
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 is needed. Name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) scripts/clone_venv.py

comfyui: setup ## Install the ComfyUI that the tests run, with torch, into the shared cache
	@$(BIN)/python scripts/comfyui_install.py

demo: setup ## Run the whole network on this machine: photographs upscaled, a test card as video
	@$(BIN)/xalora demo $(IMAGES)

test: setup ## Check everything: style, types, and all tests, in a real ComfyUI too
	@$(BIN)/python scripts/run_tests.py

test-quick: setup ## The same without ComfyUI, torch and browser; in some minutes
	@$(BIN)/python scripts/run_tests.py --quick

chaos: setup ## The fault tests at full length
	@CHAOS=whole $(BIN)/python -m pytest tests/chaos tests/unit/jobs/test_rules_property.py

cluster-test: setup ## The tests of a cluster, with a real Ray, at full length
	@CLUSTER=whole $(BIN)/python -m pytest tests/with_ray

fuzz: setup ## Damaged files of every kind for ten minutes; findings go to .artifacts/fuzz
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/python -m pytest -s tests/unit/media/test_fuzz.py

soak: comfyui ## ComfyUI under load for an hour (SOAK_SECONDS); the table goes to benchmarks/results
	@SOAK_SECONDS=$${SOAK_SECONDS:-3600} $(BIN)/python benchmarks/soak.py

bench: comfyui ## Run every benchmark, print its table and keep it in benchmarks/results
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r benchmarks/requirements.txt
	@for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py || failed=1; done; exit $${failed:-0}

definitions: comfyui ## Run the definitions of large models on a real ComfyUI, with random weights
	@$(BIN)/python scripts/run_definitions.py $(DEFINITIONS)

lint: lint-rules lint-format types-client types-nodes types-scripts lint-docs ## Style, types and docs only

lint-rules: setup
	@$(BIN)/ruff check .

lint-format: setup
	@$(BIN)/ruff format --check .

types-client: setup
	@$(BIN)/mypy

# The clone's folder need not be a package name; a link gives it one.
types-nodes: setup
	@mkdir -p .artifacts/types && ln -sfn "$(CURDIR)" .artifacts/types/xalora_pack
	@cd .artifacts/types && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" \
		--cache-dir "$(CURDIR)/.artifacts/mypy-nodes" -p xalora_pack.nodes

types-scripts: setup
	@MYPYPATH=scripts $(BIN)/mypy --explicit-package-bases scripts/*.py

docs: lint-docs ## Build the API reference from the docstrings, into .artifacts/docs

lint-docs: setup
	@$(BIN)/mkdocs build --strict --quiet

format: setup ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix . ; fixed=$$?; $(BIN)/ruff format . && exit $$fixed

node-docs: comfyui ## Generate the nodes' English texts and the reference part of their help pages
	@$(BIN)/python scripts/generate_node_docs.py

clean: ## Remove what was made in this clone; results of the demo and the shared cache stay
	@rm -rf $(MADE)
	@find nodes scripts tests xalora_client benchmarks -name __pycache__ -prune -exec rm -rf {} +
