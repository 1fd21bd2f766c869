# The front door: `make demo` shows the product, `make test` proves it. Both work on a fresh machine with rustup.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export CARGO_TARGET_DIR ?= $(HOME)/.cache/sluice/target
ARGS ?=

.PHONY: demo test fmt lint unit smoke doc bench loadtest

demo: ## entries of several tenants arrive, are stored, found, counted and shown live
	cargo run --locked --release --bin sluice -- demo $(ARGS)

test: fmt lint unit smoke doc ## everything that CI checks

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

bench: ## criterion benchmarks by layer
	cargo bench --locked $(ARGS)

loadtest: ## the figures of the README: see loadtest/README.md
	loadtest/run.sh $(ARGS)
