# The front door: `make demo` shows the product, `make test` proves it. Both work on a fresh machine with rustup.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export CARGO_TARGET_DIR ?= $(HOME)/.cache/sluice/target
ARGS ?=

.PHONY: demo build test fmt lint unit smoke doc check-deploy test-browser coverage bench loadtest

demo: ## entries of several tenants arrive, are stored, found, counted and shown live
	cargo run --locked --release --bin sluice -- demo $(ARGS)

build: ## the release binary; prints where it is
	cargo build --locked --release --bin sluice
	@echo "$(CARGO_TARGET_DIR)/release/sluice"

test: fmt check-deploy lint unit smoke doc ## everything that CI checks

fmt:
	cargo fmt --check

lint:
	cargo clippy --locked --all-targets -- -D warnings

unit:
	cargo test --locked

smoke: # every benchmark still runs, once, on small sizes
	cargo test --locked --bench '*'

doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --no-deps --document-private-items

check-deploy: ## alert rules and their tests, the dashboard's queries, the Dockerfile
	deploy/check.sh

test-browser: ## the console in a real browser against `sluice demo`
	console/test/run.sh

coverage: ## line coverage of the crate; fails below 85 %
	.ci/coverage

bench: ## criterion benchmarks by layer
	cargo bench --locked $(ARGS)

loadtest: ## the figures of the README: see loadtest/README.md
	loadtest/run.sh $(ARGS)
