# One command for each thing done often; `make` lists them.
PYTHON ?= python

.DEFAULT_GOAL := help
.PHONY: help install hooks format lint types test test-slow test-tools check wheel lock lowest ci clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## install the package for development, with the locked versions
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev]"

hooks: ## run the checks before each commit
	pre-commit install

format: ## format the code and mend what ruff can
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint: ## check format and lint rules, changing nothing
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types: ## check types
	$(PYTHON) -m mypy

test: ## run the tests of the package, but for the slow ones
	$(PYTHON) -m pytest

test-slow: ## run the tests that take minutes, and properties with 100 examples
	$(PYTHON) -m pytest -m "(slow or hypothesis) and not tools"

test-tools: ## run the tests of benchmarks/ and tools/
	$(PYTHON) -m pytest -m "tools and not slow"

check: lint types test ## all of format, lint, types and tests

wheel: ## build the wheel and the source archive in dist/
	$(PYTHON) -m build

# Both install into a virtual environment of their own, so that the result owes nothing
# to what happens to be installed.
lock: ## renew constraints.txt with the newest releases (Python 3.11)
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "make lock: needs Python 3.11, as in: make lock PYTHON=python3.11")'; \
	$(PYTHON) -m venv "$$dir/venv"; \
	"$$dir/venv/bin/pip" install --quiet -e ".[dev]"; \
	sed -n '/^#/p' constraints.txt > "$$dir/constraints.txt"; \
	"$$dir/venv/bin/pip" freeze --all --exclude-editable --exclude pip >> "$$dir/constraints.txt"; \
	cp "$$dir/constraints.txt" constraints.txt

lowest: ## run the tests with the lower bounds of pyproject.toml (Python 3.11)
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	$(PYTHON) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*(r.replace(">=", "==") for r in p["dependencies"] + p["optional-dependencies"]["video"]), sep="\n")' > "$$dir/lowest.txt"; \
	$(PYTHON) -m venv "$$dir/venv"; \
	"$$dir/venv/bin/pip" install --quiet -c "$$dir/lowest.txt" -e ".[dev]"; \
	"$$dir/venv/bin/python" -m pytest -W default

ci: ## what CI runs, in a virtual environment of its own
	.ci/run

clean: ## remove what builds and tools left behind
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +
