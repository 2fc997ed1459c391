# Two commands: `make demo` and `make test`. Both install what is missing (tools/install_deps.sh), build, and run.
.PHONY: demo test build program configure deps clean asan tsan fuzz check format
SHELL := /bin/bash
VENV := .venv
OPTIQ := build/release/optiq

deps:
	@tools/install_deps.sh

configure: deps
	@cmake --preset release > build/configure.log 2>&1 || { cat build/configure.log; exit 1; }

# The program alone; `build` makes the tests too.
program: configure
	@cmake --build --preset release --target optiq

build: configure
	@cmake --build --preset release

# A small real model (SmolLM2-135M-Instruct, Apache-2.0) from a Python package: convert it, show the tables, ask it something.
demo: program
	@tools/demo.sh $(OPTIQ)

# Every test: unit and golden tests, command line, interop with the real mlx-lm, malformed files under ASan and UBSan.
test: build
	@tools/run_tests.sh

asan: deps
	cmake --preset asan && cmake --build --preset asan && ctest --preset asan

tsan: deps
	cmake --preset tsan && cmake --build --preset tsan && TSAN_OPTIONS=suppressions=$(CURDIR)/tests/tsan.supp ctest --preset tsan

fuzz: deps
	cmake --preset fuzz && cmake --build --preset fuzz

check:
	python3 tools/check_includes.py

format:
	git ls-files 'src/*.cc' 'src/*.h' 'fuzz/*.cc' | xargs clang-format-14 -i

clean:
	rm -rf build $(VENV)
