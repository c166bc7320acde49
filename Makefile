# SPDX-License-Identifier: MPL-2.0

# Targets name what to do, not files: go knows itself what is up to date.
.PHONY: help build vault demo dev test test-unit test-e2e bench docs readme lint fmt clean
.DEFAULT_GOAL := help

# For go test, e.g. make test TESTFLAGS=-v
TESTFLAGS ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

build: ## build the plugin and the simulator into build/
	CGO_ENABLED=0 go build -trimpath -o build/ ./cmd/...

vault: ## print the path of a Vault server; build one where none is installed (about eight minutes on two cores, once)
	@scripts/vault

demo: ## show the plugin at work on a Vault server of its own
	@scripts/demo

dev: ## start that server and leave it running until Ctrl-C
	@scripts/dev

test: test-unit test-e2e ## run all tests

test-unit: ## run the tests that need no Vault server
	CGO_ENABLED=1 go test -race $(TESTFLAGS) ./...

# What a go test in e2e needs to know.
on_vault = vault="$$(scripts/vault)" && cd e2e && VAULT_BIN="$$vault" \
	PLUGIN_BIN="$(CURDIR)/build/vault-plugin-secrets-marketplace" \
	SIMULATOR_BIN="$(CURDIR)/build/marketplace-simulator"

test-e2e: build ## run the tests on a real Vault server
	$(on_vault) CGO_ENABLED=1 go test -race -count=1 -parallel 4 -timeout 20m $(TESTFLAGS) ./...

bench: build ## measure on a real Vault server (about eight minutes; BENCH_SECONDS=1: two)
	$(on_vault) CGO_ENABLED=0 go test -run '^$$' -bench Mint -benchtime 500x .
	$(on_vault) CGO_ENABLED=0 go test -run '^$$' -bench Connections -benchtime 1x .
	CGO_ENABLED=0 go build -C bench -trimpath -o ../build/ ./nothing
	$(on_vault) NOTHING_BIN="$(CURDIR)/build/nothing" CGO_ENABLED=0 go test -C ../bench -count=1 -timeout 20m
	BENCH=1 go test -count=1 -run MemoryOfHot -v ./backend | grep bytes
	go test -run '^$$' -bench HotRead .

docs: ## make docs/providers.md from the catalogue
	go run ./scripts/providers-doc >build/providers.md && mv build/providers.md docs/providers.md

readme: ## put what the demo prints into the README
	@scripts/readme

lint: ## check format, code, known vulnerabilities and the rules of the house
	@scripts/lint

fmt: ## format the code
	gofmt -w $$(scripts/lint go-files)

clean: ## remove what was built, but keep the Vault server
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name vault -exec rm -rf {} +
