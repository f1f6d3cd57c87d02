# Two commands do all the set-up on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
T ?= tests
K ?=
PARTS ?= tour fleet
SECONDS ?= 60
DATA ?= data
SPREAD := VERSION edgecl/pyproject.toml export/pyproject.toml deploy/pyproject.toml pyproject.toml constraints.txt
PYTEST := $(BIN)/python -m pytest -q
SPREAD_OUT := -n 2 --max-worker-restart=0 # a crash ends the run: pytest-xdist waits for ever after a restart
FORMS_CONFIG := .github/ISSUE_TEMPLATE/config.yml
FORMS := $(filter-out $(FORMS_CONFIG),$(wildcard .github/ISSUE_TEMPLATE/*.yml))
SCHEMA := $(BIN)/check-jsonschema --quiet --builtin-schema
# What `make quick` runs: the cheap files, and one method of each kind.
QUICK := tests/deploy/format tests/deploy/manifest tests/deploy/test_runtime.py tests/deploy/test_files.py tests/edgecl/program \
	tests/edgecl/test_config.py tests/edgecl/learning/test_metrics.py tests/edgecl/learning/test_records.py \
	tests/edgecl/streams/test_registry.py tests/edgecl/streams/test_select.py tests/edgecl/methods/test_golden.py \
	tests/edgecl/methods/test_limits.py tests/docs/test_words.py tests/project/test_version.py
TYPED := --allow-untyped-calls --no-warn-return-any

.PHONY: help dev fmt lint type test quick cover slow gpu published check demo fleet-demo life-demo bench dup docs site changelog dist record clean hashes fuzz
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: $(SPREAD)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e "./deploy[cpu,openvino,server]" -e "./edgecl[clip,weights,data,digits]" -e "./export[torch]" --group dev
	touch $@

$(VENV)/weights: $(VENV)/installed
	$(BIN)/edgecl weights fetch vit-s14
	$(BIN)/edgecl weights fetch efficientnet-lite0
	touch $@

$(VENV)/fuzz: $(VENV)/installed
	$(BIN)/python -I -m pip install --quiet -c constraints.txt --group fuzz
	touch $@

dev: $(VENV)/weights ## Make .venv with everything, fetch the weights
	@echo "ready: . $(BIN)/activate"

fmt: $(VENV)/installed ## Format the code
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

lint: $(VENV)/installed ## Check style, boundaries and the project's own files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --config .importlinter
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) custom.github-workflows-require-timeout .github/workflows/*.yml
	$(SCHEMA) vendor.github-issue-forms $(FORMS)
	$(SCHEMA) vendor.github-issue-config $(FORMS_CONFIG)
	$(SCHEMA) vendor.dependabot .github/dependabot.yml
	$(SCHEMA) vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --offline --quiet --persona auditor .github

type: $(VENV)/installed ## Check types
	$(BIN)/mypy deploy/edgecl_deploy
	$(BIN)/mypy $(TYPED) export/edgecl_export
	$(BIN)/mypy $(TYPED) edgecl/edgecl

test: $(VENV)/weights ## Run the tests: make test T=tests/deploy K=pack
	OMP_NUM_THREADS=1 $(PYTEST) $(SPREAD_OUT) $(T) $(if $(K),-k "$(K)")

quick: lint $(VENV)/weights ## Style, layers and the tests to run all day: under a minute
	OMP_NUM_THREADS=1 $(PYTEST) $(SPREAD_OUT) $(QUICK) -k "not golden or simplecil or layup or l2p or cgil or ease"

slow: $(VENV)/weights $(VENV)/fuzz ## Run the tests that take minutes
	$(PYTEST) $(T) -m slow $(if $(K),-k "$(K)")

gpu: $(VENV)/weights ## On a machine with an NVIDIA GPU: compare its engines with PyTorch and measure them, at most 10 minutes
	ORT_DISABLE_TELEMETRY=1 $(BIN)/python benchmarks/gpu.py

published: $(VENV)/weights ## On a machine with a GPU: run the cheap published protocols and compare: make published DATA=FOLDER
	$(BIN)/python benchmarks/published.py runs/published cifar100-b0-inc5 cifar100-b0-inc10 \
		--methods simplecil ranpac aper-adapter --options --root $(DATA) --download

fuzz: $(VENV)/fuzz ## Mutate the input of every parser: make fuzz SECONDS=60 [T="pack channel"]
	$(BIN)/python tests/fuzz/run.py $(SECONDS) $(if $(filter tests,$(T)),,$(T))

cover: $(VENV)/weights ## Run the tests and hold the coverage of each distribution against its floor
	OMP_NUM_THREADS=1 $(PYTEST) $(SPREAD_OUT) tests --cov --cov-report=
	$(BIN)/coverage report --include='deploy/edgecl_deploy/*' --fail-under=95 --skip-covered
	$(BIN)/coverage report --include='export/edgecl_export/*' --fail-under=90 --skip-covered
	$(BIN)/coverage report --include='edgecl/edgecl/*' --fail-under=90 --skip-covered

check: lint type dup test ## What CI runs

demo: $(VENV)/weights ## Learn, ship and classify: four methods, and a running device that takes every new task
	OMP_WAIT_POLICY=passive $(BIN)/python examples/demo.py

life-demo: $(VENV)/weights ## A device says "unknown", is taught over HTTP, takes releases, forgets: at most 3 minutes
	$(BIN)/python examples/life_demo.py

fleet-demo: $(VENV)/weights ## Three devices follow a channel while they answer: updates, faults, recovery
	$(BIN)/python examples/fleet_demo.py

bench: $(VENV)/weights ## Run the benchmarks that need Python packages only
	$(BIN)/python benchmarks/program_overhead.py
	$(BIN)/python benchmarks/update_cost.py

dup: $(VENV)/installed ## Look for code that stands twice
	$(BIN)/pylint edgecl/edgecl export/edgecl_export deploy/edgecl_deploy

docs: $(VENV)/installed ## Write what the documents take from the code
	$(BIN)/python scripts/write_docs.py
	$(BIN)/python benchmarks/history.py plot
	$(BIN)/python scripts/draw_pictures.py

dist: $(VENV)/weights ## Build wheels and sdists, install them apart, run README's tour there
	$(BIN)/python scripts/dist.py --parts $(PARTS)

hashes: $(VENV)/installed ## Write the digests of what a device installs, from constraints.txt
	$(BIN)/uv pip compile --no-config --quiet --universal --generate-hashes --python-version 3.10 --constraint constraints.txt \
		--extra cpu --no-annotate --no-header --output-file deploy/requirements.txt deploy/pyproject.toml
	$(BIN)/uv pip compile --no-config --quiet --universal --generate-hashes --python-version 3.10 --constraint constraints.txt \
		--extra cpu --extra server --no-annotate --no-header --output-file deploy/requirements-server.txt deploy/pyproject.toml

changelog: $(VENV)/installed ## Compile the changelog, the citation and the figures of VERSION
	$(BIN)/python scripts/prepare_release.py

site: $(VENV)/weights ## Build the documentation site in build/site; runs the gallery, a warning fails
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/site
	@echo "build/site/index.html"

record: $(VENV)/weights ## Record the terminal of README.md and the page of the server again: minutes
	$(BIN)/python scripts/record_terminal.py
	$(BIN)/python scripts/record_page.py

clean: ## Remove .venv and what the tools leave
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache runs build dist docs/gallery
