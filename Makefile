# Two commands for a fresh machine with Python 3.11 and make: `make demo` and `make test`.
# Everything is installed into .venv from the lock in requirements/; nothing else is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
ENGINE := .venv-engine

.PHONY: demo test check test-servers test-engine bench bench-engine ig schema lock clean help

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(READY): requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tomodex needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)  ## make phantom series, index them, search them
	$(BIN)/tomodex demo

test: $(READY)  ## every test that needs no server
	$(BIN)/python -m pytest -m "not server" -n auto --dist loadfile

check: $(READY)  ## lint, types, import contract, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest tests/test_docs.py

test-servers: $(READY) ig  ## the tests that need real servers; a missing server fails
	sh tests/servers/install.sh
	CI=true $(BIN)/python -m pytest -m server -n 2 --dist loadfile tests/servers

# Need TOMODEX_TEST_WEIGHTS (a folder with `tiny` and `standin_297`) and TOMODEX_REAL_DATA.
test-engine: $(READY) $(ENGINE)/ready  ## with torch and the official package, which it installs (7 GB)
	$(ENGINE)/bin/python -m pytest tests/test_nnunet_torch.py
	TOMODEX_ENGINE_PYTHON=$(CURDIR)/$(ENGINE)/bin/python $(BIN)/python -m pytest -s tests/engine

# It has all that .venv has but for the tools.
$(ENGINE)/ready: $(READY) requirements/engine-parity.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(ENGINE)
	$(BIN)/uv pip install --quiet --python $(ENGINE)/bin/python --require-hashes -r requirements/engine-parity.txt
	$(BIN)/uv pip install --quiet --python $(ENGINE)/bin/python --no-deps --no-build-isolation -e .
	@touch $(ENGINE)/ready

bench: $(READY)  ## every benchmark that needs no weights or server, one line of JSON each
	@for script in $(filter-out bench/engine.py bench/elasticsearch.py bench/delivery.py bench/faults.py,$(wildcard bench/*.py)); do $(BIN)/python $$script || exit 1; done

bench-engine: $(READY)  ## the engine on a CT of 336 slices; needs weights, see the script
	$(BIN)/python bench/engine.py

CANONICAL ?= https://fhir.example.org/tomodex

ig: $(READY) ig/node_modules  ## the FHIR implementation guide into ig/build (needs node); CANONICAL=https://... sets its base
	PYTHONPATH=. $(BIN)/python tools/render_ig.py ig/build --canonical $(CANONICAL)
	cd ig && mkdir -p .home && HOME=$(CURDIR)/ig/.home node link-packages.mjs
	cd ig && HOME=$(CURDIR)/ig/.home node_modules/.bin/sushi build -s build

ig/node_modules: ig/package.json ig/package-lock.json
	cd ig && npm ci --ignore-scripts --no-audit --no-fund
	@touch ig/node_modules

schema: $(READY)  ## write the published JSON Schema anew, after a change of AnnotatedSeries
	$(BIN)/python -m tests.annotated_series_schema

LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header pyproject.toml

lock: $(READY)  ## pin the newest allowed versions again
	$(LOCK) -o requirements/base.txt
	$(LOCK) --group dev -c requirements/base.txt -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --group build -c requirements/dev.txt -o requirements/build.txt
	$(LOCK) $(addprefix --extra ,oidc s3 kafka elasticsearch masks) -c requirements/base.txt -o requirements/image.txt
	$(LOCK) $(addprefix --extra ,oidc s3 kafka elasticsearch masks gpu) -c requirements/image.txt -o requirements/image-gpu.txt
	$(LOCK) --extra gpu --extra reference --group engine -o requirements/engine-parity.txt

clean:  ## remove what make made
	rm -rf $(VENV) $(ENGINE) demo-data
