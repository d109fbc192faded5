# From a new clone to every table and figure. `make` lists the targets.
PYTHON ?= python3
CORES ?= 2
WORKERS ?= 2
KILLS ?= 20
BIN := .venv/bin
BENCHMARKS = training sampling variants calibration $(if $(GPU),,workflow metrics prepare scaling)
FETCHED := inception lpips_alex lpips_vgg twemoji

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults test-published test-app test-gpu first-hour bench test-slurm slurm-up slurm-down lint lock pull clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

# Runs again only when the lock or the project's own metadata changed.
.venv/.installed: requirements.lock pyproject.toml
	@sh tools/setup.sh "$(PYTHON)"

setup: .venv/.installed  ## environment (.venv), weights and emoji, nothing else
	@$(BIN)/d2it fetch --wait $(FETCHED)

demo: setup  ## every table and figure at the demo scale, and one page of them
	@mkdir -p logs && echo "All that is printed meanwhile: logs/demo.log. Ctrl-C stops; make demo goes on."
	@PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=tools snakemake --cores $(CORES) all --logger stages >logs/demo.log
	@$(BIN)/d2it metrics >>logs/demo.log
	@echo "Open results/demo/index.html"

test: setup  ## all tests that need neither GPU nor Slurm
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not gpu" --ignore=tests/slurm --ignore=tests/browser

test-faults: setup  ## kill, stop, damage and fill: KILLS=20 takes minutes, KILLS=200 an hour
	$(BIN)/python -m tests.faults --kills $(KILLS) $(if $(WRITE),--write $(WRITE))

test-published: setup  ## the published scale with two steps a stage: 256 px, the paper's widths
	PATH="$(CURDIR)/$(BIN):$$PATH" python tests/published_scale.py

test-app: setup  ## the page of `d2it app` in a real browser: chromium, which root can install
	@$(PYTHON) tests/browser/chromium.py
	$(BIN)/pytest tests/browser

test-gpu: setup  ## the tests that need a GPU
	$(BIN)/pytest -m gpu tests/gpu

first-hour: setup  ## is this GPU node right, and as fast as planned? SLURM=1: a job; SIMULATED=1: no GPU
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m benchmarks.first_hour $(if $(SIMULATED),--simulated) \
		$(if $(SLURM)$(LAUNCHER),--slurm) $(if $(LAUNCHER),--launcher "$(LAUNCHER)")

bench: setup  ## measure against others, half an hour on two idle cores; GPU=1 on the GPU
	for name in $(BENCHMARKS); do \
		PATH="$(CURDIR)/$(BIN):$$PATH" python -m benchmarks.$$name --device $(if $(GPU),cuda,cpu) || exit 1; \
	done
	$(BIN)/python -m benchmarks.page

test-slurm: setup  ## the tests on Slurm clusters of their own, which root can start
	@$(PYTHON) tests/slurm/cluster.py install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --durations 15 tests/slurm $(if $(WRITE),--write $(WRITE))

slurm-up:  ## start a Slurm cluster of two nodes on this machine (root); then: source .slurm/env
	@$(PYTHON) tests/slurm/cluster.py up .slurm

slurm-down:  ## stop it, and leave nothing of it
	@$(PYTHON) tests/slurm/cluster.py down .slurm

lint: .venv/.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy

lock:  ## compile requirements.lock anew from pyproject.toml, keeping versions where possible
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --quiet -o requirements.lock

pull: .venv/.installed  ## finished models, tables and figures from the DVC remote, without training
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc pull
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES) --touch --forceall all

clean:  ## delete caches; data, runs and results stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
