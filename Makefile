PY := .venv/bin/python
READY := .venv/.ready
OUT ?= runs/demo

.PHONY: demo test lint bench aot tiny notebooks

$(READY): pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	.venv/bin/ssd-probe demo --out $(OUT)

test: $(READY)
	$(PY) -m pytest

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/mypy

tiny: $(READY)
	$(PY) -m ssd_probe.tiny.build

notebooks: $(READY)
	.venv/bin/jupytext --to ipynb --execute --set-kernel python3 notebooks/*.py

bench: $(READY)
	$(PY) benchmarks/position_stats.py
	$(PY) benchmarks/lm_head.py
	$(PY) benchmarks/compare.py
	$(PY) benchmarks/evaluate.py

aot: $(READY)
	$(PY) benchmarks/aot.py
