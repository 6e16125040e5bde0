# make serve, make test: all that a fresh clone needs. They create an environment in .venv.

export PYTHON  # makes the environments; default: python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE  # the tests start Python hundreds of times: compile once

serve: .venv/run            ## serve on http://127.0.0.1:8642; ARGS="--port 9000 ..." for more
	@$(BIN)/fense-admin $(ARGS)

# In two processes, each with some of the files; in one against a deployment.
WORKERS = $(if $(findstring --fense-url,$(ARGS)),,-n 2 --dist worksteal)
PYTEST = $(BIN)/python -m pytest $(WORKERS) --durations=10

test: .venv/dev             ## run the tests, except slow ones; ARGS="-k usage" for some of them
	$(PYTEST) $(ARGS)

test-all: .venv/dev         ## run all tests
	$(PYTEST) --all $(ARGS)

test-sqlite: .venv-sqlite/dev  ## run the database tests with the SQLite of fense-admin[sqlite]
	.venv-sqlite/bin/python -m pytest $(WORKERS) $(addprefix tests/,contract test_models.py test_transactions.py \
	  test_database_file.py test_migrations.py test_backup.py test_outages.py test_crash.py) \
	  -k "not postgresql"

# Tests that may behave differently on another system: not those specific to Linux, nor those only
# about texts, tools or validation.
ANYWHERE = tests/standin $(addprefix tests/contract/test_,accounts.py responses.py usage.py) \
  $(filter-out $(addprefix tests/test_,%openapi.py %odd_services.py clients.py comparing.py deploy.py \
  documents.py examples.py exchange.py fuzzing.py imports.py links.py make.py packaging.py places.py \
  readme.py release.py simulation.py two_nodes.py typing.py waitress.py workflow.py),$(wildcard tests/test_*.py))
simulate = SIMULATED_SYSTEM=$(1) PYTHONPATH=$(CURDIR)/tests/systems $(PYTEST)

test-systems: .venv/dev     ## run the tests on simulated Windows and macOS
	$(call simulate,windows) -m "not slow" $(ANYWHERE)
	SIMULATED_WITHOUT="os.link os.set_blocking" $(call simulate,windows) -m "not slow" \
	  $(addprefix tests/test_,backup.py database_file.py log.py progress.py)
	$(call simulate,macos) -m "not slow" --ignore-glob "tests/standin/test_page*" $(ANYWHERE)
	for system in windows macos; do $(call simulate,$$system) -m slow tests/test_crash.py || exit; done

test-image: .venv/dev       ## build and run the Dockerfile's image; as root, with Docker and debootstrap
	$(BIN)/python -m pytest tests/image.py --timeout 600

test-release: .venv/dev .venv-release/run  ## build a release twice, install it, and run its sdist's tests
	$(BIN)/python -m pytest tests/release.py --timeout 900

test-clients: .venv/dev     ## generate, compile and run clients in Go, Ruby, PHP and Java
	@$(BIN)/python -m pip install -q --disable-pip-version-check openapi-generator-cli==7.26.0
	$(BIN)/python -m pytest tests/generated_clients.py --timeout 300

test-guide: .venv/dev       ## follow deploy/README.md to the letter, on machines booted by systemd; as root
	$(BIN)/python -m pytest tests/guide.py --timeout 600

soak: .venv/dev             ## run mixed traffic with faults, restarts and kills, then check the data; MINUTES=10
	$(BIN)/python tests/soak.py --minutes $(or $(MINUTES),1)

lint: .venv/dev             ## check the code, its format and its types with ruff, mypy and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/check_types.py

bench: .venv-bench/run .venv-bench-postgresql/run      ## benchmark it against the alternatives; FULL=1 takes half an hour
	@.venv-bench/bin/python benchmarks/bench.py \
	  $(if $(FULL),--full --into benchmarks,--into build/benchmarks)

pyz: .venv/run              ## build dist/fense-admin.pyz: the service and its libraries in one file
	$(BIN)/python release/pyz.py

image:                      ## build the Docker image, labelled with its version and commit
	docker build -t fense-admin $(ARGS) --build-arg REVISION="$$(git rev-parse HEAD)" \
	  --build-arg VERSION="$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' fense_admin.py)" .

release: .venv-release/run  ## build and check dist/: sdist, wheel, pyz, SBOM and SHA256SUMS of the last commit
	@.venv-release/bin/python release/release.py

screenshots: .venv/dev      ## take docs/*.png: the page in Chromium, wide and narrow, light and dark
	@$(BIN)/python -m pip install -q --disable-pip-version-check pillow
	$(BIN)/python docs/screenshots.py

clean:                      ## remove the environments and everything that was built
	rm -rf .venv .venv-bench .venv-bench-postgresql .venv-release .venv-sqlite build dist typings .mypy_cache examples/javascript/node_modules examples/testcontainers/node_modules tests/clients/node_modules tests/browser/node_modules tests/workflow/node_modules *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { print "make " $$1 "\t" $$2 }' Makefile

# --- Environments: environment.sh creates them ---------------------------------------------------

# An incomplete environment (interrupted, or the checkout was moved) is created again.
unless_whole = $(shell sh environment.sh $(1) || echo again)

.venv/run: pyproject.toml setup.py $(call unless_whole,.venv) | typings
	@sh environment.sh .venv -e .
	@touch $@

.venv/dev: pyproject.toml setup.py $(call unless_whole,.venv) | typings
	@sh environment.sh .venv -e '.[test]'
	@touch $@ .venv/run

# For editors, which don't understand fense_admin's __path__: links to the modules, laid out as they
# are in the installed package. Pyright reads this folder by default.
typings: $(wildcard *.py)
	@rm -rf $@ && mkdir -p $@/fense_admin
	@cd $@/fense_admin && ln -s ../../*.py $(addprefix ../../,$(wildcard comparing serving standin)) . && mv fense_admin.py __init__.py

.venv-sqlite/dev: pyproject.toml setup.py $(call unless_whole,.venv-sqlite)
	@sh environment.sh .venv-sqlite -e '.[test,sqlite]'
	@touch $@

.venv-release/run: release/tools.txt $(call unless_whole,.venv-release)
	@sh environment.sh .venv-release -r release/tools.txt
	@touch $@

# Installed as a user would, because an editable install starts more slowly.
.venv-bench/run: $(wildcard *.py *.sql comparing/*.py serving/*.py standin/*.* standin/page/*.*) benchmarks/requirements.txt $(call unless_whole,.venv-bench)
	@sh environment.sh .venv-bench . -r benchmarks/requirements.txt
	@touch $@

# With the PostgreSQL driver, which makes every start slower.
.venv-bench-postgresql/run: .venv-bench/run $(call unless_whole,.venv-bench-postgresql)
	@sh environment.sh .venv-bench-postgresql '.[postgresql]'
	@touch $@

.PHONY: serve test test-all test-sqlite test-systems test-image test-guide test-release test-clients soak lint bench pyz image release screenshots clean help again
