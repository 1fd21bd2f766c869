# The front door: `make demo` shows the product, `make test` proves it. Both work on a fresh machine with rustup.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export CARGO_TARGET_DIR ?= $(HOME)/.cache/sluice/target
ARGS ?=

# The target folder is shared by every checkout, and cargo tells what is fresh by time alone: what another checkout built last must not pass for ours.
$(shell mkdir -p "$(CARGO_TARGET_DIR)"; [ "$$(cat "$(CARGO_TARGET_DIR)/checkout" 2>/dev/null)" = "$(CURDIR)" ] || { \
	find src tests benches loadtest fuzz -name '*.rs' -exec touch {} + ; echo "$(CURDIR)" >"$(CARGO_TARGET_DIR)/checkout"; })

.PHONY: demo demo-distributed build test test-engines fmt lint unit smoke doc check-deploy test-browser coverage bench loadtest kill-everything crash simulate fuzz soak

demo: ## entries of several tenants arrive, are stored, found, counted and shown live
	cargo run --locked --release --no-default-features --bin sluice -- demo $(ARGS)

demo-distributed: ## three processes on SQS, ClickHouse, OpenSearch and S3, all on this machine; entries through a foreign queue
	engines/demo $(ARGS)

build: ## the release binary; prints where it is
	cargo build --locked --release --bin sluice
	@echo "$(CARGO_TARGET_DIR)/release/sluice"

test: ## everything that CI checks
	$(MAKE) test-engines FIRST="fmt check-deploy lint"
	$(MAKE) smoke doc

# The engines are fetched and started while the rest is built and checked; then every test runs once, with them.
FIRST ?=
test-engines: ## all tests with real engines, which it gets, starts and stops; `ARGS=distributed` picks some
	engines/with --meanwhile "$(MAKE) $(FIRST) build-tests" -- $(MAKE) unit

kill-everything: ## kills processes and stores at random for 5 minutes and compares what is left; `ARGS="--minutes 1 --seed 7"`
	engines/kill-everything $(ARGS)

crash: ## 1,000 kills of the real binary under load, about 10 minutes; goes on where it was broken off; `ARGS="--kills 5000 --seed 7"`
	tests/crash.sh $(ARGS)

SEEDS ?= 5000
simulate: ## the protocol under hostile schedulers and on a disk that lies, about 10 minutes; `SEEDS=50000`, `SLUICE_SEED=7` tells one story again
	SLUICE_SEEDS=$(SEEDS) cargo test --locked --lib -- simulation --nocapture
	SLUICE_SEEDS=$$(($(SEEDS) / 25)) cargo test --locked --lib -- power::what_was --nocapture
	cargo test --locked --lib -- power::calls --nocapture

fuzz: ## more than 10 million inputs for every parser, with coverage, about 30 minutes; `ARGS="--runs 10000 search"`
	fuzz/run $(ARGS)

soak: ## 70 % load for 20 minutes: memory, handles, threads, tasks stay flat, every id is read back; `ARGS="--minutes 2"`
	cargo build --locked --release --bin sluice --example loadtest
	"$(CARGO_TARGET_DIR)/release/examples/loadtest" soak --server "$(CARGO_TARGET_DIR)/release/sluice" --minutes 20 $(ARGS)

fmt:
	cargo fmt --check

lint:
	cargo clippy --locked --all-targets -- -D warnings

build-tests:
	cargo test --locked --no-run

# What needs an engine that the environment does not name (see engines/up) is left out, and says so. Stories of several processes come by
# themselves: their engines are small, and everything else would take the machine away from them.
unit:
	cargo test --locked $(ARGS) -- --skip distributed
	cargo test --locked --test it -- $(or $(ARGS),distributed)

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

bench: ## benchmarks by layer, each beside its floor, and one table of them; `ARGS="--bench wal"`, `ARGS=--save`
	benches/run.sh $(ARGS)

loadtest: ## all scenarios, about 20 minutes; `ARGS="--save"` keeps the results; some of them: loadtest/run.sh, loadtest/README.md
	loadtest/run.sh $(ARGS)
