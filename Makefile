# Everything a contributor runs. Needs Python 3.10 - 3.13 and make; the rest is set up by the first command.
# Large installs (ComfyUI, torch) go to a cache shared by all clones: $XALORA_DEV_CACHE.

PYTHON ?= python3
DEV = $(PYTHON) scripts/dev.py

# Photographs for `make demo`: make demo IMAGES="a.jpg b.png"
IMAGES ?=

.DEFAULT_GOAL := help
.PHONY: help setup comfyui demo test test-quick chaos bench lint format clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do printf 'make %-12s %s\n' "$$name" "$$what"; done

setup: ## Make .venv with the package, its extras and the tools
	@$(DEV) setup

comfyui: ## Install the ComfyUI that the tests run, with torch, into the shared cache
	@$(DEV) comfyui

demo: ## Run the whole network on this machine: photographs upscaled, a test card as video
	@$(DEV) demo $(IMAGES)

test: ## Check everything: style, types, and all tests, in a real ComfyUI too
	@$(DEV) test

test-quick: ## The same without ComfyUI, torch and browser; in some minutes
	@$(DEV) test-quick

chaos: ## The fault tests at full length
	@$(DEV) chaos

bench: ## Run every benchmark, print its table and keep it in benchmarks/results
	@$(DEV) bench

lint: ## Style and types only
	@$(DEV) lint

format: ## Rewrite the code in the project's style
	@$(DEV) format

clean: ## Remove what was made in this clone; results of the demo and the shared cache stay
	@$(DEV) clean
