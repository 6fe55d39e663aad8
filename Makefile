# Everything runs in .venv, which is made when it is needed.
SHELL := bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-gpu check docs format clean

demo: $(READY)  ## the two commands of the README
	$(BIN)/lctprune train resnet
	$(BIN)/lctprune select --budget-flops 1e9

test: $(READY)  ## the default test suite
	$(BIN)/pytest -n auto

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/pytest -m slow

test-gpu: $(READY)  ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu

check: $(READY)  ## formatting, lint, what is installed, import contracts, types, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/installed .
	test "$$(ls build/installed | grep -v -e dist-info -e '^bin$$')" = lctprune
	diff <(find lctprune -name __init__.py | sort) <(cd build/installed && \
		find lctprune -name __init__.py -not -path 'lctprune/cli/*' -not -path 'lctprune/reports/*' | sort)
	cd build/installed && PYTHONPATH=. $(CURDIR)/$(BIN)/lint-imports $(CURDIR)/pyproject.toml
	cd build/installed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p lctprune
	cd build/installed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml $(CURDIR)/benchmarks
	$(MAKE) docs

docs: $(READY)  ## the documentation, into build/site; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info

$(READY): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	touch $@
