# make train   set up a virtual environment and train the assignment's model
# make test    set up and run the tests
# make check   also under JAX and PyTorch, with the linters and the type checker
# make style   the linters and the type checker alone
# make api     the API reference, from the docstrings, in build/api/index.html

PYTHON ?= python3
VENV ?= .venv
EPOCHS ?= 50
RUN = $(VENV)/bin/python

.PHONY: train test check style api

train: $(VENV)/installed
	$(RUN) train.py --epochs $(EPOCHS)

test: $(VENV)/installed
	$(RUN) -m pytest

check: $(VENV)/installed-dev
	$(MAKE) style RUN=$(RUN)
	KERAS_BACKEND=jax $(RUN) -m pytest
	OMP_NUM_THREADS=1 KERAS_BACKEND=torch $(RUN) -m pytest  # two processes, a core each

style:
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m codespell_lib
	$(RUN) -m mypy

# The library; not the parts of single commands, the checker and the demo.
MODULES = $(wildcard ddim_keras/*.py $(patsubst %,ddim_keras/%/*.py,data metrics training runs evaluation generation plots))
api: $(VENV)/installed-dev
	$(RUN) -m pdoc --docformat google --output-directory build/api \
		$(subst /,.,$(basename $(filter-out %/__init__.py %/__main__.py,$(MODULES))))

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(RUN) -m pip install -r requirements-dev.txt
	touch $@
