# Minima's everyday commands; `make` alone lists them.

SWIFT ?= swift
RATIO ?= 0.35

.DEFAULT_GOAL := help
.PHONY: help setup build test test-asan test-sanitizer demo bench bench-decode bench-peers format lint dist check-dist clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what the build needs: apt packages, libtorch and xgrammar under .deps/
	@Scripts/setup.sh

build: setup ## release build: .build/release/minima and libMinimaTorch.so
	@SWIFT='$(SWIFT)' Scripts/build.sh
	@echo "built: .build/release/minima"

test: setup ## every test; those that need a GPU skip themselves where there is none
	@Scripts/setup-clients.sh
	@Scripts/setup-browser.sh
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive $(SWIFT) test --disable-xctest

test-asan: setup ## the tensor tests under AddressSanitizer, leaks included
	@Scripts/test-asan.sh

test-sanitizer: setup ## the GPU's tests under compute-sanitizer (needs a GPU; many minutes)
	@Scripts/test-sanitizer.sh

demo: build ## compress, evaluate and sample the example model; results under demo/
	@Scripts/demo.sh $(RATIO)

bench: build ## time evaluation, compression and inspection of the example model
	@Scripts/bench.sh

bench-decode: build ## decoding at the sizes of Qwen3-32B, dense and compressed, beside transformers (needs a GPU)
	@Scripts/bench-decode.sh

bench-peers: build ## the same work with transformers and tokenizers, side by side (needs Python)
	@Scripts/bench-peers.sh

format: ## rewrite the sources in the project's format
	@$(SWIFT) format --in-place --parallel --recursive Sources Tests Package.swift

lint: ## fail on anything `make format` would change and on undocumented API
	@$(SWIFT) format lint --strict --parallel --recursive Sources Tests Package.swift

dist: setup ## portable binary and its archive under dist/
	@Scripts/dist.sh

check-dist: dist ## run that binary with libtorch absent, of another version, and found each way
	@Scripts/check-dist.sh

clean: ## remove what was built; .deps/ stays
	@rm -rf .build dist demo
