# `make help` lists the targets. All of them may be run by any user; those that need root use sudo.

.DEFAULT_GOAL := help
.PHONY: help setup build run down purge images plugin cluster cluster-down test test-cluster bench fuzz crds values rights

# sudo would look for its own: what is fetched once serves root and user.
export XDG_CACHE_HOME ?= $(HOME)/.cache
target := $(or $(CARGO_TARGET_DIR),target)
dev := $(target)/release/kvmoor-dev
sudo := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
# Tests and benchmarks are built as the user and run as root: private libvirt hosts need mount namespaces and bridges.
runner := $(if $(sudo),CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='$(sudo)')
faults := --features kvmoor-controller/fault-injection

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install missing packages
	@dev/setup

build: setup
	@echo 'building Kvmoor'
	cargo build --release --workspace --exclude kvmoor-tests

# A run that was killed could not take its .dev/ready away, and whoever waits for the next one waits for that file.
stale := .dev/ready
run: forget-stale build ## start a local cluster with a first virtual machine, until Ctrl-C
	$(if $(sudo),@$(dev) fetch)
	@$(sudo) $(dev) up --end-with-parent

.PHONY: forget-stale
forget-stale:
	@[ ! -e $(stale) ] || [ -d /proc/$$(sed -n 2p $(stale)) ] || $(sudo) rm -f $(stale)

down: ## end a cluster that runs, or what is left of one
	@[ ! -x $(dev) ] || $(sudo) $(dev) down

purge: ## the same, and forget its disks, objects and logs
	@[ ! -x $(dev) ] || $(sudo) $(dev) down --purge

images: build ## the container images, as archives in target/images
	dev/setup-cluster
	dev/images/build

plugin: ## kubectl kvm, as an archive and with a manifest for krew, in target/plugin
	cargo build --release -p kubectl-kvm
	crds/kubectl-kvm/archive $(target)/release/kubectl-kvm target/plugin

cluster: build ## a Kubernetes cluster that runs pods, with Kvmoor installed by Helm, in the background
	dev/setup-cluster
	$(if $(sudo),@$(dev) fetch --pods)
	@$(sudo) $(dev) cluster up

cluster-down: ## end it, and remove all that it had
	@[ ! -x $(dev) ] || $(sudo) $(dev) cluster down

test: setup ## formatting, lints, and all tests; beside `make run` if need be
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --all-targets $(faults) -- -D warnings
	cargo build --workspace $(faults)
	dev/setup-browser
	dev/setup-schemathesis
	$(sudo) $(target)/debug/kvmoor-dev debian
	$(if $(sudo),$(target)/debug/kvmoor-dev fetch --tests)
	$(runner) cargo test --workspace $(faults)

test-cluster: setup ## the life of an installation with Helm, on a cluster that runs pods
	dev/setup-cluster
	cargo build --workspace $(faults)
	$(target)/debug/kvmoor-dev fetch --pods
	$(runner) cargo test --workspace $(faults) --test cluster -- --ignored

bench: setup ## measure against raw libvirt; writes target/bench.json
	cargo build --release --workspace
	$(if $(sudo),$(dev) fetch)
	$(runner) cargo bench --workspace --bench kvmoor

# Coverage is counted as cargo-fuzz has it counted; the sanitizers, which need a nightly toolchain, are left out.
counted := -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table)
fuzz: ## lead the check of qcow2 headers into every corner, for a minute
	RUSTFLAGS='--cfg fuzzing $(counted)' cargo run -q --manifest-path controller/fuzz/Cargo.toml --target-dir $(target)/fuzz \
		--target $$(rustc -vV | sed -n 's/^host: //p') -- -max_len=65536 -max_total_time=60 -use_value_profile=1

crds: ## write the definitions of the API types
	cargo run -q -p kvmoor-crds --bin crdgen charts/kvmoor/files/crds

values: ## write the reference of the chart's values
	KVMOOR_WRITE=1 cargo test -q -p kvmoor-tests --test chart the_reference_of_values

rights: ## write the lists of each account's rights
	KVMOOR_WRITE=1 cargo test -q -p kvmoor-tests --test rights
