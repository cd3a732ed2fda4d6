# What people type. `make test` is what CI runs.

export PATH := $(CURDIR)/target/tools/usr/sbin:$(CURDIR)/target/tools/usr/bin:$(CURDIR)/target/tools/cargo/bin:$(PATH)

# Released programs have the storage in etcd, and so has what is tested, measured and drawn here.
FEATURES = --features etcd

.PHONY: run demo image deb dist setup protoc test test-exercise test-browser test-dashboards test-packages lint golden soak fuzz deny attacks bench bench-build bench-replicas

# Tools of cargo are built to be there soon, and not to be fast.
TOOLS = target/tools/cargo/bin
$(TOOLS)/cargo-deny: WHICH = --version 0.20.2 --no-default-features
$(TOOLS)/cargo-deb: WHICH = --version 3.8.0
$(TOOLS)/cargo-cyclonedx: WHICH = --version 0.5.9
$(TOOLS)/cargo-%:
	CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
	    cargo install --quiet --locked $(WHICH) --root target/tools/cargo $(@F)

# The first look at this project needs no more than Rust and C.
run: FEATURES := $(if $(shell command -v protoc),$(FEATURES))
run: ## builds the exporter and starts it on loopback for all providers without secrets, with its storage in ./data
	@cargo build --release --locked $(FEATURES) --bins --example webhooks
	@target/release/examples/webhooks
	@exec target/release/whatsapp-quality-exporter \
	    --webhook.allow-unauthenticated="$$(target/release/examples/webhooks names)"

demo: setup ## the exporter, Prometheus and Alertmanager on this machine, and a line that makes an alert
	@cargo build --release --locked $(FEATURES) --bins
	@exec deploy/demo

image: ## builds the image by buildah
	tests/setup packages
	deploy/image/build

deb: $(TOOLS)/cargo-deb ## builds the Debian package in target/dist
	tests/setup packages
	mkdir -p target/dist
	deploy/debian/build target/dist

dist: $(TOOLS)/cargo-deb $(TOOLS)/cargo-cyclonedx ## the image, the Debian package, manifests and SBOM, with checksums, in target/dist
	tests/setup packages
	deploy/dist

setup: ## gets what the tests need
	@tests/setup

protoc: # what a build with these features needs besides Rust and C
	@tests/setup build

lint: protoc
	cargo fmt --check
	rustfmt --check --edition 2024 src/providers/*.rs # a macro declares them, into which cargo fmt does not look
	cargo clippy --locked --all-targets $(FEATURES) -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --locked $(FEATURES) --no-deps --document-private-items
	cargo metadata --quiet --locked --format-version 1 --manifest-path benches/Cargo.toml >/dev/null
	cargo metadata --quiet --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null

test: setup lint ## everything: format, lints, documentation, tests
	cargo build --release --locked $(FEATURES) --bins --examples
	cargo test --locked $(FEATURES)
	tests/alerts/check
	tests/kubernetes/check

test-exercise: setup ## adds a provider to a copy of the project, as CONTRIBUTING.md says, and tests that
	tests/fifth-provider

test-browser: protoc ## reads the status page in Chromium; see the pictures in target/browser
	cargo build --release --locked $(FEATURES) --bins
	tests/browser/check

test-packages: dist ## runs the image, and installs, upgrades and removes the Debian package
	tests/packages/check

test-dashboards: setup ## draws the dashboards with Grafana's libraries; see the pictures in target/dashboards
	cargo build --release --locked $(FEATURES) --bins
	tests/dashboards/check

golden: setup ## writes the golden files again; read the difference before you commit it
	UPDATE_GOLDEN=1 cargo test --locked $(FEATURES) --test it golden

soak: setup ## ten minutes of load with kills, full disks, failed syncs and reloads; make soak SOAK_SECONDS=60 is shorter
	cargo build --release --locked $(FEATURES) --bins
	EXPORTER=$(CURDIR)/target/release/whatsapp-quality-exporter SOAK_SECONDS=$(or $(SOAK_SECONDS),600) \
	    cargo test --locked $(FEATURES) --test it soak:: -- --ignored --nocapture

fuzz: ## runs each fuzz target for a minute; make fuzz FUZZ_SECONDS=600 for ten
	tests/setup fuzz
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) tests/fuzz

deny: $(TOOLS)/cargo-deny ## checks licences, sources and banned crates by deny.toml
	for package in . benches fuzz; do \
	    $(TOOLS)/cargo-deny --manifest-path $$package/Cargo.toml --locked --config deny.toml \
	        check --allow license-exception-not-encountered bans licenses sources || exit; \
	done

# On a machine that is busy with other things, ALLOWED=30 asks only for an answer.
attacks: protoc ## attacks the listeners for ten seconds each, and writes the table of SECURITY.md
	cargo build --release --locked $(FEATURES) --bins
	cd benches && CARGO_TARGET_DIR=../target/benches cargo build --release --locked && ulimit -n $$(ulimit -Hn) && ../target/benches/release/compare attacks $(or $(SECONDS),10) $(or $(ALLOWED),1)

bench-build: protoc ## measures this build against an earlier one, in turn: make bench-build BEFORE=/path/of/the/binary
	cargo build --release --locked $(FEATURES) --bins
	cd benches && CARGO_TARGET_DIR=../target/benches cargo build --release --locked && ../target/benches/release/compare builds $(abspath $(BEFORE)) $(or $(ROUNDS),21)

bench-replicas: setup ## measures three replicas on three members of etcd, and writes their tables of docs/performance.md
	cargo build --release --locked $(FEATURES) --bins
	cd benches && CARGO_TARGET_DIR=../target/benches cargo build --release --locked && ../target/benches/release/compare replicas

bench: ## measures against limits and peers, and writes the tables of docs/performance.md
	@tests/setup bench
	cargo build --release --locked $(FEATURES) --bins
	cd benches && CARGO_TARGET_DIR=../target/benches cargo build --release --locked && ../target/benches/release/compare
	cd benches && CARGO_TARGET_DIR=../target/benches cargo bench --locked --bench stages
