# A fresh clone needs only `make run` and `make test`; each installs what it uses.
# PYTHON names an interpreter (3.11 or newer); PORT, REDIS_URL, DATABASE_URL, … reach `make run`.

VENV ?= .venv
PYTHON ?=
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run admin-link test test-long check mutants faults format test-pythons test-versions lock audit bench bench-quick bench-test upgrade-fixture screenshots reference docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

run: ## start Redis, web server, workers and scheduler; Ctrl-C stops them all
	@.ci/install "$(VENV)" "$(PYTHON)" requirements.lock
	@exec $(BIN)/lastacross dev

admin-link: ## print a link that signs you in as the administrator of `make run`
	@.ci/install "$(VENV)" "$(PYTHON)" requirements.lock
	@exec $(BIN)/lastacross admin link

test: ## check format, lint and types, and run all tests (Redis, PostgreSQL, a browser)
	@.ci/install-debian
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@.ci/test "$(VENV)" "not long"

test-long: ## run the long storms, fuzzing, soaks and mutants that `make test` leaves out
	@.ci/install-debian
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@.ci/test "$(VENV)" long
	@exec $(BIN)/python -m tests.mutation.run

mutants: ## put small bugs into the code and report which ones the tests notice
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@exec $(BIN)/python -m tests.mutation.run

FAULTS = $(addprefix tests/acceptance/test_,faults.py rates.py queue_file.py idle.py dev.py longtask_running.py \
	quilt_running.py count_running.py error_collector_running.py) tests/integration/test_channel_gunicorn.py \
	tests/integration/test_worker.py tests/browser/test_quilt.py tests/browser/test_longtask.py

FAULT_OPTIONS = $(if $(ROWS),--rows $(ROWS)) $(if $(OUT),--out $(OUT))

faults: ## cause faults, print a table of their costs and this machine's figures (ROWS=kill,storm OUT=table.md)
	@.ci/install-debian
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@$(BIN)/python -m tests.faults $(FAULT_OPTIONS)
	@exec $(BIN)/python -m pytest -p tests.support.measured -m "not long" $(FAULTS)

check: ## check format, lint, types and architecture, and run the fast tests
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@.ci/test "$(VENV)" "not slow and not long"

format: ## format the code and apply lint fixes
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-pythons: ## run the fast tests on every supported Python of this machine
	@.ci/test-pythons

test-versions: ## run the fast tests with the lowest and the newest versions that pyproject.toml allows
	@.ci/install-debian
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@.ci/test-versions "$(VENV)" "$(PYTHON)"

lock: ## update requirements.lock and requirements-dev.lock to the newest versions
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@.ci/lock "$(VENV)"

audit: ## list the locked versions' vulnerabilities that the package index knows
	@test -x .venv-audit/bin/pip-audit || { "$$(.ci/find-python "$(PYTHON)")" -m venv .venv-audit && \
		.venv-audit/bin/pip install --quiet pip-audit; }
	@exec .venv-audit/bin/pip-audit --disable-pip --no-deps -r requirements.lock

BENCH_OPTIONS = $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PEERS),--peers $(PEERS)) \
	$(if $(MEASURES),--measures $(MEASURES)) $(if $(TASKS),--tasks $(TASKS)) $(if $(SETTINGS),--settings $(SETTINGS))

bench: ## compare ours with the peers, 45 minutes: bench/RESULTS.md (ROUNDS=1 PEERS=deferred,rq MEASURES=drain TASKS=1000)
	@.ci/install-debian
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@exec $(BIN)/python -m bench.run $(BENCH_OPTIONS)

bench-quick: ## measure ours only, 3 minutes, and report slowdowns against bench/results.json
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@exec $(BIN)/python -m bench.quick

upgrade-fixture: ## rebuild the upgrade fixture after a change of COMMIT in tests/upgrade/former.py
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	$(BIN)/python -m tests.upgrade.make_fixture

screenshots: ## make the README's pictures from the running site, into docs/pictures
	@.ci/install-debian
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@exec $(BIN)/python -m tests.browser.screenshots

bench-test: ## run the benchmarks' own tests
	@.ci/install-debian
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	$(BIN)/python -m pytest bench/tests

reference: ## write docs/reference/ from the docstrings, settings and commands
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@exec $(BIN)/python -m tests.docs.reference

docs: ## build the documentation as a site with a search: build/site/index.html
	@.ci/install "$(VENV)" "$(PYTHON)" requirements-dev.lock
	@exec $(BIN)/python -m tests.docs.build_site

clean: ## remove the virtual environments; data in var/ stays
	rm -rf .venv .venv-* .bench build *.egg-info
