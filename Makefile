# Everything runs in .venv, which is made when it is needed.
SHELL := bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := $(VENV)/.demo
PIP := $(BIN)/pip install --disable-pip-version-check --constraint constraints.txt
# without a GPU PyTorch's CPU build, where its index answers; else the one from PyPI, which brings CUDA along on Linux
CPU_INDEX := https://download.pytorch.org/whl/cpu
WITHOUT_CUDA := command -v nvidia-smi > /dev/null || test "$$(uname)" != Linux || { \
	echo "No GPU: PyTorch's CPU build from $(CPU_INDEX) (200 MB)"; \
	$(PIP) --index-url $(CPU_INDEX) --retries 0 --timeout 10 torch torchvision || \
	echo "That index does not answer: PyTorch comes from PyPI, with some gigabytes of CUDA libraries."; }

.PHONY: demo test test-slow test-gpu test-browser test-oldest check audit release docs format clean

demo: $(DEMO)  ## the two commands of the README; installs no tools of development
	$(BIN)/lctprune train resnet
	$(BIN)/lctprune select --budget-flops 80%

test: $(READY)  ## the default test suite
	$(BIN)/pytest -n auto

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/pytest -m slow

test-gpu: $(READY)  ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu

test-browser: $(READY)  ## the tests of the report page in Chromium (apt-get install chromium)
	$(PIP) --quiet --editable '.[browser]'
	$(BIN)/pytest -m browser

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

# on Linux with x86_64 the oldest PyTorch is a CUDA build: some gigabytes
test-oldest:  ## the tests of runs and training with the oldest versions of dependencies that pyproject.toml allows
	python3 -m venv build/oldest
	sed -n 's/^    "\(torch\|torchvision\|safetensors\|scikit-learn\|scipy\|pandas\|matplotlib\|jinja2\|pydantic\|lazy_loader\|typer\|rich\)>=\([0-9.]*\)".*/\1==\2.*/p' \
		pyproject.toml > build/oldest.txt
	build/oldest/bin/pip install --quiet --disable-pip-version-check --constraint build/oldest.txt . pytest hypothesis
	cd tests && ../build/oldest/bin/pytest -c ../pyproject.toml --rootdir . -q -W default test_runs.py test_network.py \
		test_update.py test_exporting.py training/test_trainer.py cli/test_main.py

# strict: a package of which the index has no record of vulnerabilities is a failure, as it was not audited
audit: $(READY)  ## known vulnerabilities of what is installed
	$(BIN)/pip install --quiet --disable-pip-version-check pip-audit
	mkdir -p build
	$(BIN)/pip list --format=freeze --exclude-editable > build/installed.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement build/installed.txt

# two builds of one commit must be equal, byte for byte; then the wheel alone must run the demo
release: $(READY)  ## build wheel and sdist twice, compare and check them, install into an empty environment, run the demo
	$(BIN)/pip install --quiet --disable-pip-version-check build twine
	rm -rf build dist && mkdir -p build
	export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) && \
		for copy in first second; do \
			git archive --prefix=$$copy/ HEAD | tar x -C build && \
			$(BIN)/python -m build --quiet --outdir build/$$copy/dist build/$$copy || exit 1; \
		done
	cmp build/first/dist/*.whl build/second/dist/*.whl
	diff <(tar tvzf build/first/dist/*.tar.gz --numeric-owner) <(tar tvzf build/second/dist/*.tar.gz --numeric-owner)
	$(BIN)/twine check --strict build/first/dist/*
	python3 -m venv build/empty
	build/empty/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt build/first/dist/*.whl
	cd build/empty && PATH=bin:$$PATH lctprune train resnet --epochs 1 && PATH=bin:$$PATH lctprune select --budget-flops 1e9
	cp -r build/first/dist dist

docs: $(READY)  ## the documentation, into build/site; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info

$(DEMO): pyproject.toml constraints.txt
	@echo "Installing lctprune into $(VENV)"
	python3 -m venv $(VENV)
	@$(WITHOUT_CUDA)
	$(PIP) --editable .
	touch $@

$(READY): $(DEMO)
	@echo "Installing the tools of development into $(VENV)"
	$(PIP) --editable '.[dev,docs]'
	touch $@
