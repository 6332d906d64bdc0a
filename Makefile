# Every target sets itself up in .venv first. Set-up talks on standard error, so that
# `make demo ARGS="--once --json"` writes one JSON object to standard output and nothing else.

PYTHON ?= python3
ARGS ?=
HOST ?= http://127.0.0.1:8080
FOR ?= 10m
USERS ?= 20

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo demo-shadow serve test lint bench bench-serving soak load deploy-files clean
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## the whole loop on synthetic tickets; ARGS="--once --json"
	@$(BIN)/understudy demo $(ARGS)

demo-shadow: $(READY) ## students come, fall and win back, in some minutes; ARGS="--json"
	@$(BIN)/understudy story $(ARGS)

serve: $(READY) ## serve understudy.yaml; ARGS="--config FILE --port N"
	@$(BIN)/understudy serve $(ARGS)

# Three on two cores: a test that starts a process mostly waits for it. A file stays on one of them,
# so that what it starts for all of its tests is started once; the long ones come first.
test: lint ## lint, then every test
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Apart from test: tracing nearly doubles what the tests cost.
coverage: $(READY) ## every test with the share of lines that they reach, which must be 90 %
	@$(BIN)/pytest -n 2 --dist loadfile --cov=gateway --cov=exporters --cov=distill \
		--cov-report=term:skip-covered --cov-fail-under=90 $(ARGS)

lint: $(READY) ## style, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY) ## the certificate's simulation, then the demo's figures as JSON; see docs/benchmarks.md
	@$(BIN)/pytest -q -m simulation >&2
	@$(BIN)/understudy demo --once --json $(ARGS)

bench-routing: $(READY) ## CLINC150 and BANKING77, hours; ARGS="--data FOLDER --out FOLDER --seeds N"
	@$(BIN)/python -m benchmarks $(ARGS)

bench-serving: $(READY) ## next to its peers; ARGS="--bundle PATH --texts FILE --seconds N --peers a,b"
	@$(BIN)/python -m loadtests.compare $(ARGS)

soak: $(READY) ## every promise at full length, about 30 minutes; ARGS="--bundle PATH --texts FILE"
	@$(BIN)/pytest -c pyproject.toml -q -s -m soak -p no:cacheprovider tests $(ARGS)

load: $(READY) ## load a gateway that runs already; HOST=URL FOR=10m USERS=20 ARGS="--texts FILE"
	@$(BIN)/locust -f loadtests/locustfile.py --headless --host $(HOST) \
		-u $(USERS) -r $(USERS) -t $(FOR) $(ARGS)

deploy-files: $(READY) ## write what deploy/ has of the code: the Grafana dashboard
	@$(BIN)/python -m deploy.grafana.dashboard

clean: ## remove what the other targets made: .venv, caches, build output, the demo's folder
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis \
		build dist understudy-demo understudy-story .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone: constraints.txt names the exact build, and a later requirement for
# any torch then finds it there instead of fetching a larger one.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Understudy needs Python 3.11 or later: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "installing into .venv: 1 to 2 minutes, once" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv >&2
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
		"$$(grep -m1 '^torch==' constraints.txt)" >&2
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
		-e '.[dev]' >&2
	@touch $@
