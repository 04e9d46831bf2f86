# Everything happens in a virtual environment inside the checkout; nothing else on the machine is touched.
#   make demo   make test   make lint   make bench   make clean
#   make demo EXTRAS=[cuda13]      with a GPU (driver for CUDA 13; [cuda12] for CUDA 12)
#   make test ARGS="-k mib -x"     arguments of pytest
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?=
ARGS   ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# A stamp for each set of extras: asking for another one installs it.
BASE := $(VENV)/.installed$(subst [,-,$(subst ],,$(EXTRAS)))
TEST := $(VENV)/.installed-for-test
DEV  := $(VENV)/.installed-for-dev

.PHONY: demo test lint bench clean

$(VENV)/.made:
	@echo "making $(VENV) with $(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(BASE): $(VENV)/.made pyproject.toml
	@echo "installing gpuio$(EXTRAS); the first time takes about a minute"
	$(PIP) install --editable '.$(EXTRAS)'
	@touch $@

# kvikio and its libraries without what they depend on, some 6 MB: the extra would bring the CUDA toolkit, 2 GB, and tests do without.
KVIKIO := 'kvikio-cu13==26.10.*' 'libkvikio-cu13==26.10.*' 'rapids-logger==0.3.*' 'nvidia-cufile==1.*'

$(TEST): $(BASE)
	@echo "installing what the tests need"
	$(PIP) install --editable '.[test]'
	@$(BIN)/python -c "import kvikio" 2>/dev/null || $(PIP) install --no-deps $(KVIKIO) || echo "no kvikio here; its tests will be skipped"
	@touch $@

$(DEV): $(TEST)
	@echo "installing what the checks need"
	$(PIP) install --editable '.[dev]'
	@touch $@

demo: $(BASE)
	$(BIN)/python -m gpuio demo $(ARGS)

test: $(TEST)
	$(BIN)/python -m pytest $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(TEST)
	@for file in benchmarks/bench_*.py; do \
	    name=$$(basename $$file .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(ARGS) || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output
