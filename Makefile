# make demo: the whole study in miniature; make smoke: the same way in about a minute, to see it run; make test: the tests;
# make gpu: tests and benchmark of a CUDA card. All of them install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo smoke test lint gpu docs install

demo: $(INSTALLED)
	$(BIN)/python evaluate.py -m experiment=demo

smoke: $(INSTALLED)
	$(BIN)/python evaluate.py -m experiment=smoke

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pylint sarsynth
	$(BIN)/lizard --languages python --length 50 --CCN 1000 --warnings_only sarsynth
	$(BIN)/mypy

# The benchmark runs whatever the tests say: who has a card for an hour wants to know both. README and docs/gpu.md take
# its figures.
gpu: $(INSTALLED)
	@$(BIN)/python benchmarks/gpu.py --check
	$(BIN)/python -m pytest -n 0 -m gpu; tests=$$?; $(BIN)/python benchmarks/gpu.py && exit $$tests

# In an environment of its own: pages are read, never imported, so that this needs no torch.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/.installed: requirements-docs.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet -r requirements-docs.txt
	touch $@

install: $(INSTALLED)

# uv is quicker than pip, and takes each package from one index only, so that no stray local build of torch gets in.
# Compiled here, once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each start would compile for 12 s.
$(INSTALLED): requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python >= 3.11 is needed; name one with: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet "uv>=0.5"
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -r requirements-dev.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps -e .
	touch $@
