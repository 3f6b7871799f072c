# Everything a person types. Each command sets up what it needs, and does nothing twice.
PYTHON = .venv/bin/python
# A file is one process's; tests/services.py says which come first. Servers that are given have one database for all.
PARALLEL = --numprocesses $(if $(filter given,$(TEST_SERVICES)),0,$(or $(PROCESSES),4)) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo run test chaos faults matrix real bench lint lock sbom

help: ## what can be typed
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 8

setup: ## make .venv and install the pinned dependencies
	@deploy/local/bootstrap

demo: setup ## the whole pipeline on this machine: real traffic, a killed worker, the ledger at the end
	@$(PYTHON) -m deploy.local.demo

run: setup ## the whole pipeline on this machine, until Ctrl-C (TRAFFIC=5: five sign-ups a second; FOLDER=.local-2: beside another)
	@$(PYTHON) -m deploy.local.stack run $(if $(TRAFFIC),--traffic $(TRAFFIC)) $(if $(FOLDER),--folder $(FOLDER))

test: setup ## every test but the fault matrix (`make faults`), on real services that the run starts itself
	@$(PYTHON) -m $(or $(RUNNER),pytest) $(PARALLEL)

matrix: setup ## unit tests and a slice of the integration tests with each Python here, Django and driver (ONLY="3.12 6.1 psycopg" FULL=1)
	@$(PYTHON) -m tests.matrix $(if $(ONLY),--only "$(ONLY)") $(if $(FULL),--full)

chaos: setup ## break everything for SECONDS (60) under load, with SEED, then count; then `make faults`, unless FAULTS=0
	@$(PYTHON) -m tests.chaos.soak --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))
	$(if $(filter 0,$(FAULTS)),,@$(PYTHON) -m pytest -m slow $(PARALLEL))

faults: setup ## the fault matrix (docs/guarantees.md): each process killed, each service broken, under load
	@$(PYTHON) -m $(or $(RUNNER),pytest) -m slow $(PARALLEL)

real: setup ## RabbitMQ 4, PostgreSQL 17, ClickHouse with users, a cluster, Docker: what this machine can run (ONLY=suite, cluster or compose)
	@$(PYTHON) -m deploy.real.run $(if $(ONLY),--only $(ONLY))

bench: setup ## measure, as ratios between things of one run (ONLY=name for one)
	@$(PYTHON) -m tests.benchmarks.bench $(if $(ONLY),--only $(ONLY))

lint: setup ## ruff, bandit, mypy and the import contracts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/bandit --quiet --configfile pyproject.toml --recursive backend pipeline deploy manage.py
	@DEBUG=true .venv/bin/mypy
	@.venv/bin/lint-imports --no-cache

lock: setup ## write the hashes of requirements.lock and deploy/requirements.lock anew, for the versions that it has
	@$(PYTHON) -m deploy.lock

sbom: setup ## sbom.cdx.json: what the image has from the package index (CycloneDX)
	@$(PYTHON) -m deploy.sbom >sbom.cdx.json
