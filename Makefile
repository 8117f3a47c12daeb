# make demo    install into .venv and segment four phantoms with the shipped model
# make test    install into .venv, lint, check types, run the tests
# make coverage    the tests, and which lines they reach
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test coverage install lint clean

demo: install
	$(BIN)/ichseg demo --output demo_output

test: install lint
	@# The tests' second opinion on the dense CRF compiles with g++; without one those tests are skipped.
	@$(BIN)/python -c "import pydensecrf" 2>/dev/null || $(BIN)/python -m pip install --quiet pydensecrf2==1.1 \
		|| echo "pydensecrf2 did not install (no g++?): its comparison is skipped"
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

coverage: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov=ichseg --cov-report=term:skip-covered

lint: install
	$(BIN)/ruff check ichseg tests benchmarks
	$(BIN)/ruff format --check ichseg tests benchmarks
	$(BIN)/mypy

install: $(INSTALLED)

$(INSTALLED): requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip<27"
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output
