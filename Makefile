# Every target installs what it needs, given Python 3.11 or newer with venv, and the package index.

# The first suitable one creates the virtualenv; or name one: make test PYTHON=/opt/python3.13/bin/python3
PYTHON = python3 python3.14 python3.13 python3.12 python3.11
# Tools that manage several Pythons install them side by side, with only one in PATH.
BESIDE = $(shell python3 -c 'import glob, sys; print(*sorted(glob.glob(sys.base_prefix + "/../*3.*/bin/python3")))')
# Another SQLAlchemy gets a separate virtualenv: make test SQLALCHEMY='==2.0.44'
SQLALCHEMY =
VENV = .venv$(if $(SQLALCHEMY),-sqlalchemy$(subst =,,$(subst *,x,$(SQLALCHEMY))))
BIN = $(VENV)/bin
PYTEST_ARGS =
FRAMEWORKS =
# One more than there are processors, because tests wait for servers; 4 at most.
PARALLEL = --numprocesses $$(n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 3 ? n + 1 : 4)))
DURATION = 60
SEED =
BENCH = .venv-bench
BENCH_ARGS =
AGENTFLOW = tests/integrations/agentflow
PAIRS = tests/integrations/test_all_pairs.py

# Tests start a hundred processes: compile their imports once, even if the environment disables bytecode.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two concurrent pips would break the virtualenv
.PHONY: help demo test test-slow coverage test-frameworks test-matrix test-wheel test-agentflow torture torture-checker pairs bench docs lint style type migration-lint \
    format migrate revision check-migrations build clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed-demo ## run the demo: servers, migrations and conversations, in a minute
	@$(BIN)/agent-persistence demo

test: $(VENV)/installed-dev ## run the fast tests (a selection: PYTEST_ARGS=tests/unit)
	$(BIN)/pytest $(or $(PYTEST_ARGS),$(PARALLEL) -m 'not slow')

test-slow: $(VENV)/installed-dev ## run the slow tests: examples in documents, every migration, crashes under load, growth
	$(BIN)/pytest $(PARALLEL) -m slow

coverage: $(VENV)/installed-dev ## run the fast tests and measure their coverage, which takes half as long again
	$(BIN)/pytest --cov $(PARALLEL) -m 'not slow'

test-frameworks: $(VENV)/installed-dev ## run each framework's tests with the lowest and newest versions: FRAMEWORKS=openai-agents
	$(BIN)/python tests/framework_versions.py $(FRAMEWORKS)

pairs: $(VENV)/installed-dev ## print what each framework reads of what another one wrote (all: PYTHON=python3.12 VENV=.venv-3.12)
	@PYTHONPATH=tests $(BIN)/python -m integrations.pairs

torture: $(VENV)/installed-dev ## kill, hang and disconnect real servers under load: make torture DURATION=60 SEED=7
	PYTHONPATH=tests $(BIN)/python -m torture --duration $(DURATION) $(if $(SEED),--seed $(SEED))

torture-checker: $(VENV)/installed-dev ## plant defects, and check that the torture run finds each
	PYTHONPATH=tests $(BIN)/python -m torture --self-test

bench: $(BENCH)/installed-bench ## compare with hand-written asyncpg and other stores: make bench QUICK=1 (BENCH_ARGS='--only w2a')
	$(BENCH)/bin/python -m benchmarks $(if $(QUICK),--quick) $(BENCH_ARGS)

test-matrix: ## run the tests on the lowest and newest SQLAlchemy 2.0 and the newest 2.1
	$(MAKE) test SQLALCHEMY='==2.0.44'
	$(MAKE) test SQLALCHEMY='==2.0.*'
	$(MAKE) test SQLALCHEMY='==2.1.*'

test-wheel: build ## run the tests against the built wheel
	$(BIN)/python -m venv --clear .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[all,claude-agent-sdk,google-adk,test]"
	.venv-wheel/bin/pytest $(PYTEST_ARGS)

test-agentflow: ## run the tests of the checkpointers for Agentflow and PyAgenity, which need Python 3.12
	@for python in $(PYTHON) $(BESIDE); do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	        $(MAKE) .venv-agentflow/installed-test PYTHON="$$python" VENV=.venv-agentflow && \
	        exec .venv-agentflow/bin/pytest $(or $(PYTEST_ARGS),$(PARALLEL) --cov --cov-config $(AGENTFLOW)/coverage.ini $(AGENTFLOW) $(PAIRS)); \
	        exit 1; \
	    fi; \
	done; \
	echo "Skipped: Agentflow and PyAgenity need Python 3.12 or newer with its venv module; tried: $(PYTHON) $(BESIDE)."

docs: $(VENV)/installed-dev ## build the documentation into site/, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: style type migration-lint ## run every check that CI runs

style: $(VENV)/installed-dev ## check style, layers and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

type: $(VENV)/installed-dev ## check types with mypy and pyright
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

migration-lint: $(VENV)/installed-dev ## find revisions that would block a live database
	$(BIN)/python tests/migrations/migration_lint.py

format: $(VENV)/installed-dev ## format the code and apply automatic fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

migrate: $(VENV)/installed-demo ## upgrade the database of PERSISTENCE_DATABASE_URL to the newest revision
	$(BIN)/alembic upgrade head

revision: $(VENV)/installed-demo ## draft a revision: make revision MESSAGE='add a column'
	$(BIN)/alembic revision --autogenerate --message '$(MESSAGE)'

check-migrations: $(VENV)/installed-dev ## check that models and history agree for every id type
	$(BIN)/pytest tests/migrations $(PYTEST_ARGS)

build: $(VENV)/installed-dev ## build the wheel and the source archive into dist/
	rm -rf dist
	$(BIN)/python -m build

clean: ## remove everything that the other targets created
	rm -rf .venv .venv-* dist site benchmarks/results .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find benchmarks src tests migrations -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed-demo: EXTRAS = cli,embedded
$(VENV)/installed-dev: EXTRAS = dev
$(VENV)/installed-test: EXTRAS = all,test
$(VENV)/installed-demo $(VENV)/installed-dev $(VENV)/installed-test: pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "Installing agent-persistence[$(EXTRAS)] into $(VENV), once ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --editable '.[$(EXTRAS)]' 'sqlalchemy[asyncio]$(SQLALCHEMY)'
	@touch $@

# Other stores are installed if they can be; the benchmark names those that are absent.
$(BENCH)/installed-bench: pyproject.toml benchmarks/contenders.txt | $(BENCH)/pyvenv.cfg
	@echo "Installing agent-persistence[bench] and the compared stores into $(BENCH), once ..."
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --editable '.[bench]' --requirement benchmarks/contenders.txt || \
	    grep -v '^#' benchmarks/contenders.txt | while read -r store; do \
	        $(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' "$$store" || \
	        echo "cannot be installed: $$store"; \
	    done
	@touch $@

$(VENV)/pyvenv.cfg $(BENCH)/pyvenv.cfg:
	@for python in $(PYTHON); do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec "$$python" -m venv --upgrade-deps $(@D); \
	    fi; \
	done; \
	echo "Python 3.11 or newer with its venv module is needed; tried: $(PYTHON)." >&2; \
	echo "On Debian or Ubuntu: apt-get install python3-venv. Or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
	exit 1
