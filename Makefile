# make serve, make test: all that a fresh clone needs. The environment is made by itself, in .venv.

PYTHON ?= python3
BIN := .venv/bin

serve: .venv/run            ## serve on http://127.0.0.1:8642; ARGS="--port 9000 ..." for more
	@$(BIN)/fense-admin $(ARGS)

# In two processes; of a deployment there is one.
WORKERS = $(if $(findstring --fense-url,$(ARGS)),,-n 2)

test: .venv/dev             ## the whole suite; ARGS="-k usage" for a part of it
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-sqlite: .venv-sqlite/ready  ## the data's tests with the SQLite of fense-admin[sqlite]
	.venv-sqlite/bin/python -m pytest tests/test_models.py tests/test_faults.py tests/contract

soak: .venv/dev             ## mixed traffic, faults, restarts and kills, then an audit; MINUTES=10
	$(BIN)/python tests/soak.py --minutes $(or $(MINUTES),1)

lint: .venv/dev             ## what .ci/run holds the code against
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv-bench/ready    ## what it costs, against what one would use instead; FULL=1 for ten minutes
	@.venv-bench/bin/python benchmarks/bench.py \
	  $(if $(FULL),--full --into benchmarks,--into build/benchmarks)

clean:                      ## forget the environment, and all that was built
	rm -rf .venv .venv-bench .venv-sqlite build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/'

# Debian's Python makes no environment with pip in it unless python3-venv is there: lend it ours.
$(BIN)/python:
	@echo "making the environment in .venv, once"
	@$(PYTHON) -m venv .venv >/dev/null || { \
	  $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $@ install -q pip; }

# (The warning that is left out says of an editable install that it is one.)
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --disable-pip-version-check

.venv/run: pyproject.toml setup.py | $(BIN)/python
	@$(PIP) -e .
	@touch $@

.venv/dev: pyproject.toml setup.py | $(BIN)/python
	@$(PIP) -e '.[test]'
	@touch $@ .venv/run

.venv-sqlite/ready: pyproject.toml setup.py
	@test -x .venv-sqlite/bin/python || $(PYTHON) -m venv .venv-sqlite
	@.venv-sqlite/bin/python -m pip install -q --disable-pip-version-check -e '.[test,sqlite]'
	@touch $@

# Installed as a user would: an editable install is slower to start.
.venv-bench/ready: $(wildcard *.py) schema.sql benchmarks/requirements.txt
	@test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install -q --disable-pip-version-check . -r benchmarks/requirements.txt
	@touch $@

.PHONY: serve test test-sqlite soak lint bench clean help
