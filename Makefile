# Holdfast: `make` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# s3s 0.17 declares a newer compiler than the one we build with, and works on ours (its tests and ours pass). Cargo would
# refuse it by the declaration alone, so the check is off, here and nowhere else.
RUST_VERSION_FLAG := --ignore-rust-version

CACHE ?= $(HOME)/.cache/holdfast
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(CACHE)/bin:$(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH)

CARGO := cargo
# Cycles of the kill -9 and power-cut tests under `make torture`; `make test` runs 100 and 50.
TORTURE_KILLS ?= 1000
TORTURE_CUTS ?= 500
# Seeds of the model test; `make test` runs 80.
TORTURE_SEEDS ?= 5000
# Rounds of every fault on a cluster of processes, and seeds of the one in a process; `make test` runs 1 and 2.
TORTURE_ROUNDS ?= 20
# First starts of three nodes at one moment; `make test` runs 3.
TORTURE_FIRST_STARTS ?= 100
TORTURE_CLUSTER_SEEDS ?= 200
# Seeds of the simulated cluster; `make test` runs 200.
TORTURE_SIM_SEEDS ?= 5000
# The mount: rounds of kills, length of workloads (10 is fsx with 10 seeds of 100,000 operations), seeds without a kernel;
# `make test` has 1, 1 and 4.
TORTURE_MOUNT_ROUNDS ?= 100
TORTURE_MOUNT_EFFORT ?= 10
TORTURE_MOUNT_SEEDS ?= 400
DATA ?= ./holdfast-data
LISTEN ?= 127.0.0.1:9900

.PHONY: help run build test torture bench bench-cluster bench-coordination bench-queries bench-mount lint format tools

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

run: ## build and start a gateway on an embedded store in ./holdfast-data, S3 on 127.0.0.1:9900
	@$(CARGO) build $(RUST_VERSION_FLAG) --release -p holdfast --bin holdfast
	@exec "$(CARGO_TARGET_DIR)/release/holdfast" serve --listen $(LISTEN) --data $(DATA)

build: ## debug build of everything, tests included
	$(CARGO) build $(RUST_VERSION_FLAG) --workspace --all-targets

test: tools ## everything a change must pass: unit, model, contract, simulation and system tests
	$(CARGO) test $(RUST_VERSION_FLAG) --workspace --no-fail-fast

torture: tools ## crash, fault and model tests at length: TORTURE_KILLS (1000), _CUTS (500), _SEEDS (5000), _ROUNDS (20)
	HOLDFAST_MODEL_SEEDS=$(TORTURE_SEEDS) HOLDFAST_KILL_CYCLES=$(TORTURE_KILLS) HOLDFAST_POWER_CUTS=$(TORTURE_CUTS) \
	  HOLDFAST_CLUSTER_ROUNDS=$(TORTURE_ROUNDS) HOLDFAST_FIRST_STARTS=$(TORTURE_FIRST_STARTS) \
	  $(CARGO) test $(RUST_VERSION_FLAG) --workspace --no-fail-fast --test model --test kill --test power --test cluster
	HOLDFAST_CLUSTER_SEEDS=$(TORTURE_CLUSTER_SEEDS) $(CARGO) test $(RUST_VERSION_FLAG) --workspace --lib -- cluster::tests::faults
	HOLDFAST_SIM_SEEDS=$(TORTURE_SIM_SEEDS) $(CARGO) test $(RUST_VERSION_FLAG) --workspace --lib -- cluster::tests::sim
	HOLDFAST_MOUNT_SEEDS=$(TORTURE_MOUNT_SEEDS) $(CARGO) test $(RUST_VERSION_FLAG) --workspace --lib -- vfs::tests
	HOLDFAST_MOUNT_ROUNDS=$(TORTURE_MOUNT_ROUNDS) HOLDFAST_MOUNT_EFFORT=$(TORTURE_MOUNT_EFFORT) HOLDFAST_MOUNT_GROUNDS=local,shared,exclusive \
	  $(CARGO) test $(RUST_VERSION_FLAG) --workspace --no-fail-fast --test mount

bench: tools ## side by side with MinIO in the same run; results in bench/results
	$(CARGO) build $(RUST_VERSION_FLAG) --release -p holdfast -p holdfast-bench
	$(CARGO) run $(RUST_VERSION_FLAG) --release -p holdfast-bench

bench-cluster: export HOLDFAST_TOOLS_ETCD := true
bench-cluster: tools ## three nodes side by side with three of etcd; results in bench/results
	$(CARGO) build $(RUST_VERSION_FLAG) --release -p holdfast -p holdfast-bench
	$(CARGO) run $(RUST_VERSION_FLAG) --release -p holdfast-bench -- cluster

bench-coordination: export HOLDFAST_TOOLS_ETCD := true
bench-coordination: tools ## locks and events of three nodes side by side with etcd's; results in bench/results
	$(CARGO) build $(RUST_VERSION_FLAG) --release -p holdfast -p holdfast-bench
	$(CARGO) run $(RUST_VERSION_FLAG) --release -p holdfast-bench -- coordination

bench-queries: tools ## SQL side by side with DuckDB, S3 Select with MinIO; results in bench/results
	$(CARGO) build $(RUST_VERSION_FLAG) --release -p holdfast -p holdfast-bench
	$(CARGO) run $(RUST_VERSION_FLAG) --release -p holdfast-bench -- queries

bench-mount: tools ## the mount side by side with s3fs and rclone; results in bench/results
	$(CARGO) build $(RUST_VERSION_FLAG) --release -p holdfast -p holdfast-mount -p holdfast-bench
	$(CARGO) run $(RUST_VERSION_FLAG) --release -p holdfast-bench -- mount

lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(RUST_VERSION_FLAG) --workspace --all-targets -- -D warnings

format: ## format every file
	$(CARGO) fmt --all

tools: ## install what the system tests drive: minio, mc, boto3, DuckDB, and Debian packages when root
	@bash compat-tests/tools.sh
