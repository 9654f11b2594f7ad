# make run    sets everything up and forges a real small model from examples/handbook
# make test   sets everything up and runs the checks and the tests
# make TORCH_INDEX=https://download.pytorch.org/whl/cpu …   where PyPI's torch would bring gigabytes of CUDA

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
CORPUS ?= examples/handbook
BUDGET ?= 0
CORE_VENV ?= .venv-core
# With another Python here, `make test` runs the core's tests on it too.
CORE_PYTHON ?=

# llama.cpp built for any x86-64: its native build crashes on AMX processors with quantized models.
export CMAKE_ARGS ?= -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF
# Without a C++ compiler llama.cpp cannot be built: models are then exported as F16 and Q8_0 and not compared by it.
CXX_HERE := $(shell command -v c++ || command -v g++ || command -v clang++)
COMMA := ,
LOCAL := $(if $(CXX_HERE),local,docs$(COMMA)train$(COMMA)export)
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
PIP = $(BIN)/python -m pip install -q -c constraints.txt

.PHONY: run test setup check test-core fuzz storms cluster gpu bench lock docs clean

run: $(STAMP)
	$(BIN)/forge run $(CORPUS) --budget $(BUDGET)

test: setup check
	bash tests/lanes.sh $(BIN)/python $(CORE_PYTHON)

setup: $(STAMP) .wheelhouse/.filled .wheelhouse/llama.cpp/LICENSE

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

# The part that needs no torch, on another Python:  make test-core PYTHON=python3.13
# Without what exercises other programs than Python: clouds, hosts, hubs, database servers, browsers, confinement, kills, files made to hurt.
# `make test` has run them.
test-core:
	$(PYTHON) -m venv $(CORE_VENV)
	$(CORE_VENV)/bin/python -m pip install -q -c constraints.txt -e '.[docs,datasketch,dev]' tokenizers safetensors
	$(CORE_VENV)/bin/python -m pytest -m "not local and not slow and not fault" -p no:cacheprovider --ignore-glob='tests/test_plugins/test_compute_[ahs]*' \
	  --ignore-glob='tests/test_engine/test_remote*' --ignore=tests/test_plugins/test_hubs_huggingface.py --ignore=tests/test_plugins/test_sources_databases.py --ignore=tests/test_hostile.py \
	  --ignore=tests/test_storms.py --ignore=tests/test_review_page.py --ignore=tests/test_cli/test_compare_page.py --ignore=tests/test_cli/test_review.py \
	  --ignore=tests/test_phases/test_teardown.py --ignore=tests/test_phases/test_prep_isolation.py

# 200 kill -9 at random moments over whole dry runs, about an hour on two cores; 2,000 mutated files through prep, a minute.
fuzz: $(STAMP)
	FORGE_MUTATIONS=2000 $(BIN)/python -m pytest tests/test_phases/test_prep_mutations.py
	FORGE_KILLS=200 $(BIN)/python -m pytest tests/test_fuzz.py -m fault --timeout 14400 -s

# The teacher's money in eleven storms, 2,000 items and 20 kill -9 each, about ten minutes on two cores; ends with a table.
storms: $(STAMP)
	FORGE_STORMS=1 $(BIN)/python -m pytest tests/test_storms.py -m storms -s --timeout 3600

# Real training on a SLURM cluster of two nodes on this machine, about five CPU minutes; needs root and SLURM's packages.
cluster: $(STAMP)
	FORGE_CLUSTER=1 $(BIN)/python -m pytest tests/test_plugins/test_compute_slurm_training.py -m cluster --durations 0

# The whole chain on a machine with a GPU: bf16, FP8, 4 bits, all weights, a sweep, from scratch; a training that is killed.
gpu: $(STAMP)
	FORGE_GPU=1 $(BIN)/python -m pytest tests/test_gpu.py -m gpu --durations 0

bench: $(STAMP)
	$(BIN)/python bench/start.py

# What a host that is reached over ssh installs, with hashes; needs uv on the PATH. The comment at its top stays.
lock:
	uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url -c constraints.txt \
	  --extra train --extra qlora --extra gguf pyproject.toml configs/machine.in -o .machine.lock
	{ grep '^#' configs/machine.lock; cat .machine.lock; } > .machine.new && mv .machine.new configs/machine.lock && rm .machine.lock

# Regenerates what is made from code: the tables in the skills and the command reference.
docs: $(STAMP)
	$(BIN)/python -m forge.docs

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "slm-forge needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): torch (about 1 GB)$(if $(CXX_HERE),$(COMMA) then llama.cpp is compiled once (about 5 minutes),)"
	@$(if $(CXX_HERE),true,echo "no C++ compiler here: without llama.cpp only F16 and Q8_0 files are made and nothing compares them with the model (apt-get install g++ make mends it)")
	$(PIP) --upgrade pip
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) -e '.[$(LOCAL),datasketch,dev]'
	touch $@

# What the wheel test installs from, so that no test needs the network.
.wheelhouse/.filled: pyproject.toml constraints.txt $(STAMP)
	mkdir -p .wheelhouse
	$(BIN)/python -m pip download -q -c constraints.txt -d .wheelhouse typer pydantic rich pyyaml jinja2 numpy charset-normalizer py3langid
	touch $@

# llama.cpp's source as llama-cpp-python pins it: the tests compare our export with its converter, on its real vocabularies.
.wheelhouse/llama.cpp/LICENSE: constraints.txt $(STAMP)
	mkdir -p .wheelhouse/llama.cpp
	$(BIN)/python -m pip download -q -c constraints.txt --no-deps --no-binary llama-cpp-python -d .wheelhouse llama-cpp-python
	tar xzf .wheelhouse/llama_cpp_python-*.tar.gz -C .wheelhouse/llama.cpp --no-same-owner --strip-components=3 --wildcards \
	  '*/vendor/llama.cpp/convert_hf_to_gguf.py' '*/vendor/llama.cpp/conversion' '*/vendor/llama.cpp/gguf-py' \
	  '*/models/ggml-vocab-qwen2.gguf' '*/models/ggml-vocab-llama-bpe.gguf' '*/vendor/llama.cpp/LICENSE'
	touch $@

clean:
	rm -rf $(VENV) $(CORE_VENV) .wheelhouse .forge build dist
