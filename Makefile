PY := .venv/bin/python
READY := .venv/.ready
LOWEST := .venv-lowest/.ready
VLLM := .venv-vllm/.ready
OUT ?= runs/demo
WORKERS ?= logical
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: demo test test-all test-long test-lowest test-vllm lint bench aot tiny notebooks

$(READY): pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	.venv/bin/ssd-probe demo --out $(OUT)

test: $(READY)
	$(PYTEST) -m "not slow"

# Where vLLM cannot be installed, its tests are skipped, with pip's reason above.
test-all: $(READY)
	$(PYTEST)
	@if $(MAKE) $(VLLM); then $(MAKE) test-vllm; \
	else echo "skipped: the tests of vLLM itself, which could not be installed"; fi

test-lowest: $(LOWEST)  # FILES: only these
	.venv-lowest/bin/python -m pytest -n $(WORKERS) --dist loadgroup \
		-m "not slow" -W ignore::DeprecationWarning $(FILES)  # of old packages for newer ones

# What pyproject.toml allows at least, in an environment of its own.
$(LOWEST): pyproject.toml tests/lowest.py
	python3 -m venv .venv-lowest
	python3 tests/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install -q -c .venv-lowest/lowest.txt -e ".[dev]"
	touch $(LOWEST)

test-vllm: $(READY) $(VLLM)
	SSD_PROBE_TEST_VLLM=$(CURDIR)/.venv-vllm $(PY) -m pytest -n 0 tests/test_vllm.py

# vLLM wants other versions than ours. What it brings for pictures and sound is not of our torch.
$(VLLM): tests/vllm.txt
	python3 -m venv .venv-vllm
	.venv-vllm/bin/pip install -q -r tests/vllm.txt
	.venv-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	.venv-vllm/bin/python -c "import vllm"
	touch $(VLLM)

test-long: $(READY)
	SSD_PROBE_LONG=1 $(PYTEST) -m long

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/mypy

tiny: $(READY)
	$(PY) -m ssd_probe.tiny.build

notebooks: $(READY)
	.venv/bin/jupytext --to ipynb --set-kernel python3 notebooks/*.py
	$(PY) -m nbconvert --to notebook --inplace --execute --log-level ERROR \
		--ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb

bench: $(READY)
	$(PY) benchmarks/position_stats.py
	$(PY) benchmarks/lm_head.py
	$(PY) benchmarks/compare.py
	$(PY) benchmarks/evaluate.py

# TRITON=3.5.1: with that version.
aot: $(READY) $(TRITON:%=.venv/triton-%)
	PYTHONPATH=$(TRITON:%=.venv/triton-%) $(PY) benchmarks/aot.py

.venv/triton-%: $(READY)
	.venv/bin/pip install -q --no-deps --upgrade --target $@ triton==$*

gpu-check: $(READY)
	$(PY) benchmarks/gpu_check.py --out gpu-check.md
