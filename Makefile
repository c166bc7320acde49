# SPDX-License-Identifier: MPL-2.0

# All targets are actions and not files, because go itself knows what is up to date.
.PHONY: announce help build vault try demo dev test test-unit test-e2e test-clients bench release release-check docs readme lint check fmt clean
.DEFAULT_GOAL := help

# For go test, e.g. make test TESTFLAGS=-v
TESTFLAGS ?=

# The flags of every build, so that make build and make release give the same bytes at the same version.
export BUILDFLAGS := -trimpath -buildvcs=false

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

build: ## build the plugin and the simulator into build/
	version="$$(scripts/version)" && CGO_ENABLED=0 go build $(BUILDFLAGS) -ldflags "-X vault-plugin-secrets-marketplace.Version=$$version" -o build/ ./cmd/...

vault: ## print the path of a Vault server; build one if none is installed (once, about eight minutes on two cores)
	@scripts/vault

try: ## show the engine in use in its own process, without a Vault server
	@scripts/try

# Says before anything is compiled if a Vault server has to be.
announce:
	@scripts/vault announce

demo: ## show the plugin in use on a Vault server of its own
	@scripts/demo

dev: ## start the demo's servers and leave them running until Ctrl-C
	@scripts/dev

test: announce test-unit test-e2e ## run all tests that need Go, make, git and a C compiler alone

test-unit: ## run the tests that need no Vault server
	CGO_ENABLED=1 go test -race $(TESTFLAGS) ./...
	CGO_ENABLED=0 go test -C tools/schema $(TESTFLAGS) ./...
	CGO_ENABLED=0 go test -C tools/release $(TESTFLAGS) ./...

# Runs a command in e2e, with the paths of the programs in the environment.
on_vault = vault="$$(scripts/vault)" && cd e2e && VAULT_BIN="$$vault" \
	PLUGIN_BIN="$(CURDIR)/build/vault-plugin-secrets-marketplace" \
	SIMULATOR_BIN="$(CURDIR)/build/marketplace-simulator"

test-e2e: announce build ## run the tests on a real Vault server
	$(on_vault) CGO_ENABLED=1 go test -race -count=1 -parallel 4 -timeout 20m $(TESTFLAGS) ./...

test-clients: announce build ## run the tests with clients from elsewhere, such as Node; say which of them are missing
	@scripts/clients
	$(on_vault) CGO_ENABLED=1 go test -race -count=1 -parallel 4 -timeout 20m -tags clients -run '^TestClients' $(TESTFLAGS) ./...

bench: announce build ## measure on a real Vault server (about fifteen minutes; about two with BENCH_SECONDS=1)
	$(on_vault) CGO_ENABLED=0 go test -run '^$$' -bench Mint -benchtime 500x .
	CGO_ENABLED=0 go build -C bench -trimpath -o ../build/ ./nothing
	$(on_vault) NOTHING_BIN="$(CURDIR)/build/nothing" CGO_ENABLED=0 go test -C ../bench -count=1 -timeout 25m
	BENCH=1 go test -count=1 -run TestMemory_HotConfigs -v ./backend | grep bytes
	go test -run '^$$' -bench HotRead .

release: ## make binaries, SBOMs, an image and checksums in build/release (SIGNING_KEY=… signs them, SIGNING_KEY=none does not)
	@scripts/release

release-check: ## make the release twice, in two folders, and check it (about ten minutes)
	CGO_ENABLED=0 go test -C tools/release -tags release -count=1 -timeout 60m -v -run Release ./...

docs: ## generate docs/providers.md, the tables in docs/api.md, the reference in docs/definitions.md and its schema
	mkdir -p build
	go run ./scripts/providers-doc >build/providers.md && mv build/providers.md docs/providers.md
	go run ./scripts/api-doc docs/api.md >build/api.md && mv build/api.md docs/api.md
	go run -C tools/schema .

readme: ## update the transcripts in docs/demo.md and in the README
	@scripts/readme

lint: ## check format, code, known vulnerabilities and the project's own rules
	@scripts/lint

check: announce lint test ## run the linters and all of these tests

fmt: ## format the code
	gofmt -w $$(scripts/lint go-files)

clean: ## delete the build output, but keep the Vault server
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name vault -exec rm -rf {} +
