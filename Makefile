# `make demo` and `make test` each work alone on a fresh machine: Debian 12 or the like, with Python 3.11, git and make.

PYTHON ?= python3
ARGS ?=
# Most tests wait for Klipper's tick of 250 ms, so there are more of them at once than there are processors.
JOBS ?= 4
VENV := .venv
READY := $(VENV)/.installed
BENCHMARKS ?= round_trip memory download cpu

# What the tests need of Debian: program=package.
PACKAGES := mosquitto=mosquitto shellcheck=shellcheck systemd-analyze=systemd unshare=util-linux

# A desktop user's PATH has no /usr/sbin, where Debian puts mosquitto.
WITH_SBIN := PATH="$$PATH:/usr/local/sbin:/usr/sbin:/sbin"

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench faults asyncapi clean packages

help:
	@echo "make demo    print a file on a virtual printer, from Printago's side to the end (ARGS='--printers 3')"
	@echo "make test    all checks and tests (ARGS='-k pause')"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the benchmarks; see benchmarks/README.md"
	@echo "make faults  kills and broken networks, N of them (N=1000), and 20,000 inputs of the fuzzer; N=1000 takes half an hour"
	@echo "make asyncapi  have the published contract read by the AsyncAPI project's parser"
	@echo "make clean   take away all that these have made here"

demo: $(READY)
	@$(VENV)/bin/printago-moonraker demo $(ARGS)

test: lint packages
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(READY) packages
	@set -e; for each in $(BENCHMARKS); do $(VENV)/bin/python -m "benchmarks.$$each" $(ARGS); done

# The AsyncAPI project's own parser is a program of Node.js, and heavy: not a part of `make test`.
asyncapi:
	npm install --silent --no-save --prefix .cache/asyncapi @asyncapi/parser
	node docs/check_asyncapi.mjs "$(CURDIR)/.cache/asyncapi" "$(CURDIR)/schemas/asyncapi.yaml"

clean:
	rm -rf $(VENV) dist build .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip knows dependency groups since 25.1; Debian 12's is 23.0.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is no Python 3.11 or newer; name one that is: make PYTHON=/usr/bin/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make virtual environments: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing the program and its tools into $(VENV) (once, about half a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]' --group dev
	@touch $@

# Of mosquitto only the program is wanted: a broker that was not there before shall not run afterwards, nor at the next boot.
packages:
	@$(WITH_SBIN); missing=; \
	for each in $(PACKAGES); do command -v "$${each%=*}" >/dev/null || missing="$$missing $${each#*=}"; done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi; \
	if ! command -v apt-get >/dev/null || ! $$as_root true 2>/dev/null; then \
	    echo "The tests need more programs: sudo apt-get install$$missing, then run this again." >&2; exit 1; \
	fi; \
	echo "Installing$$missing with apt-get ..."; \
	install="$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends$$missing"; \
	$$install >/dev/null 2>&1 || { $$as_root apt-get update -qq && $$install >/dev/null; } || \
	    { echo "apt-get cannot install$$missing: see above, then run this again." >&2; exit 1; }; \
	case "$$missing" in *mosquitto*) ;; *) exit 0 ;; esac; \
	if [ -d /run/systemd/system ]; then $$as_root systemctl --quiet disable --now mosquitto; \
	else $$as_root service mosquitto stop >/dev/null 2>&1 || true; fi

N ?= 1000
faults: $(READY) packages
	FUZZ_INPUTS=20000 $(VENV)/bin/python -m pytest tests/fuzz
	@$(WITH_SBIN); $(VENV)/bin/python -m tests.faults $(N) $(ARGS)
