# Retort. `make help` lists what there is. Everything runs in .venv, which `make` builds.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A compiled cache saves seconds at every start: mlflow and torch are large.
unexport PYTHONDONTWRITEBYTECODE
export DVC_NO_ANALYTICS = 1
export DO_NOT_TRACK = 1
export MLFLOW_DISABLE_TELEMETRY = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false
# DVC's commands say `python`: that must be this environment's.
export PATH := $(abspath $(BIN)):$(PATH)
PAPERS := $(foreach paper,$(PAPER),--paper $(paper))
SIDE := $(if $(JOBS),--jobs $(JOBS))
ELSEWHERE := $(if $(CLUSTER),--cluster $(CLUSTER))
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help repro test test-all test-published lint smoke bench serve retrain verify clean setup fetch

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo "PAPER=sepprune limits repro, smoke, bench and verify to one paper."
	@echo "JOBS=2 has repro and smoke run two stages at a time."
	@echo "CLUSTER=tcp://host:8786 has repro run stages on a Dask cluster."
	@echo "PROFILE=smoke has verify run that profile twice from nothing and compare;"
	@echo "with JOBS=2 beside it, once side by side and once by bare dvc repro, timed."

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"Retort needs Python 3.11 or later, this is {v[0]}.{v[1]}; name one with make PYTHON=…")'
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 2**30; sys.exit(0 if free > 4 else f"the packages need 4 GB while they are installed (with a CUDA build of torch, several more), and {free:.1f} GB are free here")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --upgrade 'pip>=26'
	@echo "installing Retort's packages into $(VENV) (about 2.4 GB; minutes the first time)"
	@$(BIN)/python -m pip install -q -c constraints.txt --editable . --group dev
	@touch $@

setup: $(STAMP) ## make the environment only

fetch: $(STAMP)
	@$(BIN)/python -m stages fetch

repro: $(STAMP) fetch ## reproduce every paper (or PAPER=…) up to its verdicts and report
	@$(BIN)/python -m stages repro $(PAPERS) $(SIDE) $(ELSEWHERE)

test: $(STAMP) ## the test suite (TESTS=path for a part of it)
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long" $(TESTS)

test-all: $(STAMP) ## the test suite with its long tests: real servers, real faults
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

test-published: $(STAMP) ## what only the profile paper needs: published networks, in transformers
	@$(BIN)/python -m pip install -q -c constraints.txt --editable '.[published]'
	@$(BIN)/python -m pytest -n 2 -k "paper or published" tests/pipelines/foundations/video/test_published.py tests/pipelines/q_vdit/test_profiles.py tests/pipelines/s2q_vdit/test_profiles.py

lint: $(STAMP) ## ruff on everything, mypy on stages/
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

smoke: $(STAMP) ## every paper and every kind of arm, tiny, in minutes
	@$(BIN)/python -m stages profile smoke $(PAPERS) $(SIDE)

bench: $(STAMP) ## measure times and memory again on this device
	@$(BIN)/python -m stages measure $(PAPERS)

serve: $(STAMP) ## MLflow, Prefect and the report on loopback; Ctrl-C ends all (LAB=1: PostgreSQL, passwords)
	@$(BIN)/python -m stages serve $(if $(LAB),--lab)

retrain: $(STAMP) ## make a paper's network anew (PAPER=merlin), and decide if it is used (DRY=1: say what would run)
	@$(BIN)/python -m stages retrain $(PAPER) $(if $(DRY),--dry-run) $(SIDE)

verify: $(STAMP) ## run stages again in a clean copy; the bytes must be dvc.lock's (BUDGET=10m)
	@$(BIN)/python -m stages verify $(PAPERS) $(if $(BUDGET),--budget $(BUDGET)) $(if $(PROFILE),--profile $(PROFILE) $(SIDE))

clean: $(STAMP) ## delete working files; says what DVC's cache may drop (GC=1 drops it)
	@$(BIN)/python -m stages clean $(if $(GC),--gc)
