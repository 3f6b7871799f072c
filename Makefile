# Everything a person types. Each command sets up what it needs, and does nothing twice.
PYTHON = .venv/bin/python
# A file is one process's; tests/services.py says which come first. Servers that are given have one database for all.
PARALLEL = --numprocesses $(if $(filter given,$(TEST_SERVICES)),0,$(or $(PROCESSES),4)) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo run test chaos faults matrix real bench screenshots docs lint coverage lock dist clean sbom

help: ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 8

setup: ## make .venv and install the pinned dependencies
	@deploy/local/bootstrap

demo: setup ## the whole pipeline on this machine: real traffic, a killed worker, the ledger at the end
	@$(PYTHON) -m deploy.local.demo

run: setup ## the whole pipeline on this machine, until Ctrl-C (TRAFFIC=5: five sign-ups a second; FOLDER=.local-2: beside another)
	@$(PYTHON) -m deploy.local.stack run $(if $(TRAFFIC),--traffic $(TRAFFIC)) $(if $(FOLDER),--folder $(FOLDER))

test: setup ## every test but those of `make faults`, on real services that the run starts itself (ARGS="tests/unit -k phrase")
	@$(PYTHON) -m $(or $(RUNNER),pytest) $(if $(ARGS),$(ARGS),$(PARALLEL))

matrix: setup ## unit tests and a slice of the integration tests with each Python here, Django and driver (ONLY="3.12 6.1 psycopg" FULL=1)
	@$(PYTHON) -m tests.matrix $(if $(ONLY),--only "$(ONLY)") $(if $(FULL),--full)

chaos: setup ## break everything for SECONDS (60) under load, with SEED, then count; then `make faults`, unless FAULTS=0
	@$(PYTHON) -m tests.chaos.soak --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))
	$(if $(filter 0,$(FAULTS)),,@$(PYTHON) -m pytest -m slow $(PARALLEL))

faults: setup ## the fault matrix (docs/guarantees.md), the pages in a browser, and other long tests (ARGS="-k ack")
	@$(PYTHON) -m $(or $(RUNNER),pytest) -m slow $(if $(ARGS),$(ARGS),$(PARALLEL))

real: setup ## RabbitMQ 4, PostgreSQL 17, ClickHouse with users, a cluster, Docker: what this machine can run (ONLY=suite, cluster or compose)
	@$(PYTHON) -m deploy.real.run $(if $(ONLY),--only $(ONLY))

bench: setup ## measure, as ratios between things of one run (ONLY=name for one)
	@$(PYTHON) -m tests.benchmarks.bench $(if $(ONLY),--only $(ONLY))

screenshots: setup ## the pictures of the pages in docs/images, from a real stack and a real browser
	@$(PYTHON) -m tests.browser.screenshots

docs: setup ## docs/ as a site in site/ that needs no network, with the pages that the code writes
	@$(PYTHON) -m tests.settings_page
	@$(PYTHON) -m tests.reference_pages
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict
	@echo "Open site/index.html. To search, serve it: $(PYTHON) -m http.server --bind 127.0.0.1 --directory site 8010"

lint: setup ## pip check, ruff, bandit, mypy, the import contracts, spelling, the language of what people read, links between pages
	@$(PYTHON) -m pip check
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/bandit --quiet --configfile pyproject.toml --recursive backend pipeline deploy manage.py
	@DEBUG=true .venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/codespell *.md Makefile .github backend deploy docs pipeline tests
	@$(PYTHON) -m tests.prose
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

coverage: setup ## `make test`, and how much of towpath it runs in its own processes; fails below the floor of pyproject.toml
	@$(PYTHON) -m $(or $(RUNNER),pytest) $(if $(ARGS),$(ARGS),$(PARALLEL)) --cov --cov-report= --cov-fail-under=0
	@.venv/bin/coverage report --skip-covered

lock: setup ## write the hashes of requirements.lock and deploy/requirements.lock anew, for the versions that it has
	@$(PYTHON) -m deploy.lock

dist: setup ## the wheel and the source in dist/, checked against CHANGELOG.md and the version (TAG=v0.1.0)
	@rm -rf dist
	@$(PYTHON) -m hatchling build --directory dist
	@$(PYTHON) -m deploy.release check "$(TAG)" dist

clean: ## remove what the commands above have made in this folder, but no running stack
	@test ! -e .local/stack.env || { echo "A stack runs here: stop it first (Ctrl-C in \`make run\`)."; exit 1; }
	@rm -rf .venv .local .local-* .mypy_cache .ruff_cache .pytest_cache .hypothesis sbom.cdx.json site dist .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

sbom: setup ## sbom.cdx.json: what the image has from the package index (CycloneDX)
	@$(PYTHON) -m deploy.sbom >sbom.cdx.json
