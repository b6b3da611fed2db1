# Everything is done by `make`: it sets up its own virtual environments and needs nothing but Python 3.11 or newer.
#
#   make convert   checkpoints -> Keras files, checked        make test   the tests
#
# PYTHON=python3.12 make ...   chooses the interpreter.
# Without a network: run `make wheelhouse` where there is one and copy the folder here; it is used when it exists.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# The newest Keras 2 lives in TensorFlow 2.15, which runs on Python 3.9 to 3.11.
PYTHON_KERAS2 ?= $(shell for p in python3.11 python3.10 python3.9 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
VENV_KERAS2 ?= .venv-keras2
BIN := $(VENV)/bin
# Further versions of Keras, for `make matrix`: the oldest Keras 3 and the oldest TensorFlow that are supported.
MATRIX ?= .venv-matrix
KERAS_OLDEST := 3.4.1
TENSORFLOW_OLDEST := 2.12.1
# Two tests at a time, each file's in one process: they share what the file sets up. More would want more memory.
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
WHEELS := $(if $(wildcard wheelhouse),--no-index --find-links wheelhouse)
PIP_INSTALL = -m pip install -qq --disable-pip-version-check $(WHEELS)
NO_PACKAGES = { echo "The packages could not be installed (see above). Without a network, run 'make wheelhouse' on a \
	machine of the same kind that has one, copy the folder wheelhouse/ here, and run this again."; exit 3; }

export TF_CPP_MIN_LOG_LEVEL ?= 3
export PYTHONWARNINGS ?= ignore::DeprecationWarning
export MATRIX := $(abspath $(MATRIX))
export KERAS2_PYTHON := $(abspath $(VENV_KERAS2))/bin/python

.PHONY: help convert fetch verify accuracy trained predict report finetune test test-all fuzz matrix lint format docs bench wheelhouse clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

convert: $(VENV)/.convert  ## fetch or find the checkpoints, convert them to .h5, check them (TO="h5 keras" for more)
	@$(BIN)/ferplus convert-all $(addprefix --to ,$(TO))

fetch: $(VENV)/.convert  ## download the FERPlus checkpoints (NAMES="senet50_vggface2" for others)
	@$(BIN)/ferplus fetch $(NAMES)

verify: $(VENV)/.convert  ## check the files in weights/output again
	@$(BIN)/ferplus verify all

accuracy: $(VENV)/.convert  ## accuracy on FERPlus (DATA=path or FERPLUS_DATA; MODEL="a.h5 b.pth", SPLIT=both, EXPECT=published)
	@models="$(or $(MODEL),$(wildcard weights/output/*_ferplus*.h5))"; \
	[ -n "$$models" ] || { echo "There is no converted file in weights/output: run 'make convert', or name one: make accuracy MODEL=file"; exit 2; }; \
	worst=0; for model in $$models; do $(BIN)/ferplus verify accuracy "$$model" $(addprefix --data ,$(DATA)) \
		$(addprefix --split ,$(SPLIT)) $(addprefix --expect ,$(EXPECT)) \
		--report "weights/reports/$$(basename "$$model").accuracy"; code=$$?; \
		[ $$code -lt 128 ] || exit $$code; [ $$code -le $$worst ] || worst=$$code; done; exit $$worst

trained: $(VENV)/.convert  ## repeat the recorded accuracies of the networks trained here (DATA=path or FERPLUS_DATA)
	@$(BIN)/ferplus verify trained $(addprefix --data ,$(DATA))

predict: $(VENV)/.convert  ## emotions of images (INPUT="face.png folder", MODEL=file, CSV=file)
	@model="$(or $(MODEL),$(firstword $(wildcard weights/output/*_ferplus*.h5)))"; \
	[ -n "$$model" ] && [ -n "$(INPUT)" ] || { echo "Name images: make predict INPUT=face.png. The model is the first in weights/output ('make convert' makes it), or MODEL=file."; exit 2; }; \
	$(BIN)/ferplus predict "$$model" $(INPUT) $(addprefix --csv ,$(CSV))

report: $(VENV)/.convert  ## a page of FERPlus faces with heat maps (DATA=path or FERPLUS_DATA; MODEL=file, SPLIT=val)
	@model="$(or $(MODEL),$(firstword $(wildcard weights/output/*_ferplus*.h5)))"; \
	[ -n "$$model" ] || { echo "There is no converted file in weights/output: run 'make convert', or name one: make report MODEL=file"; exit 2; }; \
	$(BIN)/ferplus report "$$model" $(addprefix --data ,$(DATA)) $(addprefix --split ,$(SPLIT)) \
		--out "weights/reports/$$(basename "$$model").faces.html"

finetune: $(VENV)/.convert  ## train on FERPlus (DATA=path, OUT=folder; ARCH=senet50, RECIPE=albanie, WEIGHTS=start, SET="epochs=9 size=64", RESUME=1)
	@$(BIN)/ferplus finetune $(addprefix --data ,$(DATA)) $(addprefix --arch ,$(ARCH)) $(addprefix --recipe ,$(RECIPE)) \
		$(addprefix --weights ,$(WEIGHTS)) $(addprefix --set ,$(SET)) --out "$(or $(OUT),weights/runs/$(or $(RECIPE),scratch)-$(or $(ARCH),resnet50))" $(if $(RESUME),--resume)

test: $(VENV)/.dev $(VENV_KERAS2)/.ready  ## run the tests, but for the long ones (JOBS=1 for one at a time)
	@$(PYTEST)

test-all: $(VENV)/.dev $(VENV_KERAS2)/.ready  ## run the tests, the long ones too
	@$(PYTEST) -m 'slow or not slow'

fuzz: $(VENV)/.dev  ## fuzz every reader, guided by coverage; what it finds is kept (SECONDS=60 each, TARGETS="onnx keras")
	@$(BIN)/python -m tests.fuzzing $(or $(SECONDS),60) $(TARGETS) && HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -m hypothesis

matrix: $(VENV)/.dev $(VENV_KERAS2)/.ready $(MATRIX)/.keras-oldest $(MATRIX)/.tensorflow-oldest  ## open every file that is written in every Keras, old and new
	@$(BIN)/python -m tests.matrix.running

lint: $(VENV)/.dev  ## style, types, floors of imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(VENV)/.dev  ## rewrite the code in the project's style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: $(VENV)/.dev  ## build the documentation's site into build/site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "build/site/index.html (to search it, serve it: $(BIN)/python -m http.server -d build/site)"

bench: $(VENV)/.dev  ## measure speed and memory: the figures in docs/speed.md (ROUNDS=1 for a quick look)
	@for each in convert_speed mat_speed inference accuracy_speed finetune_speed predict_startup; do \
		$(BIN)/python -m benchmarks.$$each $(addprefix --rounds ,$(ROUNDS)) || exit; done
	@$(BIN)/python -m benchmarks.parity_speed

wheelhouse: $(VENV)/.python  ## download every package, for machines without a network
	@$(BIN)/python -m pip download -qq -d wheelhouse -c constraints.txt setuptools wheel '.[verify,dev]'
	@if [ -n "$(PYTHON_KERAS2)" ]; then $(PYTHON_KERAS2) -m pip download -qq -d wheelhouse -c constraints-keras2.txt \
		'tensorflow==2.15.1' pillow && $(PYTHON_KERAS2) -m pip download -qq -d wheelhouse -c constraints-keras2.txt --no-deps \
		keras_vggface keras_applications; fi
	@du -sh wheelhouse

clean:  ## remove environments, caches, converted files and reports; downloads stay
	rm -rf $(VENV) $(VENV_KERAS2) $(MATRIX) weights/output weights/reports benchmarks/.work build *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments: each stamp file says that a step was finished, so that an interrupted one is done again ---

$(VENV)/.python:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed and was not found. Name one: make PYTHON=/path/to/python3"; exit 2; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) could not make an environment; Debian and Ubuntu need: \
		apt install python3-venv"; exit 2; }
	@touch $@

$(VENV)/.convert: $(VENV)/.python constraints.txt pyproject.toml
	@echo "installing NumPy, h5py, Keras, TensorFlow and PyTorch into $(VENV) (one to five minutes, once)"
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt setuptools wheel || $(NO_PACKAGES)
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt --no-build-isolation -e '.[verify]' || $(NO_PACKAGES)
	@touch $@

$(VENV)/.dev: $(VENV)/.convert
	@echo "installing the test tools into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt --no-build-isolation -e '.[verify,dev]' || $(NO_PACKAGES)
	@touch $@

$(VENV_KERAS2)/.ready: constraints-keras2.txt
	@if [ -z "$(PYTHON_KERAS2)" ]; then echo "no Python 3.9 to 3.11 for Keras 2.15: its tests will be reported as skipped"; \
	else echo "setting up $(VENV_KERAS2) with TensorFlow 2.15 (Keras 2)" && $(PYTHON_KERAS2) -m venv --clear $(VENV_KERAS2) && \
		{ $(VENV_KERAS2)/bin/python $(PIP_INSTALL) -c constraints-keras2.txt 'tensorflow==2.15.1' pillow && \
		$(VENV_KERAS2)/bin/python $(PIP_INSTALL) -c constraints-keras2.txt --no-deps keras_vggface keras_applications || \
		$(NO_PACKAGES); }; fi
	@mkdir -p $(VENV_KERAS2) && touch $@

$(MATRIX)/.keras-oldest: $(VENV)/.dev
	@$(BIN)/python $(PIP_INSTALL) --no-deps --upgrade --target $(MATRIX)/keras-oldest 'keras==$(KERAS_OLDEST)' || $(NO_PACKAGES)
	@touch $@

$(MATRIX)/.tensorflow-oldest:
	@if [ -z "$(PYTHON_KERAS2)" ]; then echo "no Python 3.9 to 3.11 for TensorFlow $(TENSORFLOW_OLDEST): it is left out"; \
	else echo "setting up $(MATRIX) with TensorFlow $(TENSORFLOW_OLDEST)" && \
		$(PYTHON_KERAS2) -m venv --clear $(MATRIX)/tensorflow-2.12 && \
		{ $(MATRIX)/tensorflow-2.12/bin/python $(PIP_INSTALL) 'tensorflow==$(TENSORFLOW_OLDEST)' || $(NO_PACKAGES); }; fi
	@mkdir -p $(MATRIX) && touch $@
