PYTHON ?= python3
VENV := .venv/bin

.PHONY: demo test test-random lint docs pictures bench clean

demo: .venv/installed  ## one picture to a textured mesh, in runs/
	$(VENV)/python launch.py --config configs/sv3d-masked-sds.yaml --train

test: .venv/installed-dev  ## as many processes as cores, of one thread each: more of them would wait for each other
	OMP_NUM_THREADS=1 $(VENV)/python -m pytest --numprocesses=auto --dist=worksteal

test-random: export LIFTSTUDIO_TEST_SEEDS = new
test-random: test  ## the same with random numbers that no run had before

lint: .venv/installed-dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/codespell
	$(VENV)/lint-imports --no-logo
	$(VENV)/mypy
	$(VENV)/python -m liftstudio.cli.config_reference --check

docs: .venv/installed-dev  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict

pictures: .venv/installed-dev  ## the README's pictures of page, report and viewer, by chromium; takes minutes
	PYTHONPATH=tests $(VENV)/python docs/images/make_pictures.py

bench: .venv/installed-dev  ## kernels against their references
	$(VENV)/python -m bench.ops

clean:
	rm -rf .venv site tests/export/node_modules

# `unfinished` marks a .venv whose making was interrupted: packages may be incomplete in it, so it is made anew.
.venv/installed: requirements.txt
	if [ -e .venv/unfinished ] || ! $(VENV)/python -m pip --version >/dev/null 2>&1; then rm -rf .venv; fi
	mkdir -p .venv && touch .venv/unfinished
	$(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet --requirement requirements.txt
	touch $@ && rm .venv/unfinished

# The Khronos glTF validator is a node package; without node its test is skipped and says so.
.venv/installed-dev: .venv/installed requirements-dev.txt tests/export/package.json
	mv .venv/installed .venv/unfinished
	$(VENV)/python -m pip install --quiet --requirement requirements-dev.txt
	if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --no-package-lock --prefix tests/export; fi
	mv .venv/unfinished .venv/installed && touch $@
