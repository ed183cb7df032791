# `make check` is what a change has to pass; it changes no file.
PYTHON ?= python

.PHONY: check test format security torture-serving torture torture-data torture-peers

check:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pyright --pythonpath "$$(command -v $(PYTHON))"
	$(PYTHON) -m pytest -n 2

test:
	$(PYTHON) -m pytest -n 2

torture:
	$(PYTHON) -m benchmarks.torture.run

torture-peers:
	$(PYTHON) -m benchmarks.torture.run scenarios=peers

security:
	$(PYTHON) -m benchmarks.security.run

torture-serving:
	$(PYTHON) -m benchmarks.serving.run full=True

torture-data:
	CHATLM_TORTURE=1 $(PYTHON) -m pytest -n 2 tests/corpus

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .
