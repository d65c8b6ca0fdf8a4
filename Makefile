# `make` alone prints what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VERSION ?= 0.1.0
LDFLAGS := -s -w -X headwater.dev/kernel/process.version=$(VERSION)
BUILD   := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'
TOOL    := go tool -modfile=tools.mod
BINS    := headwater hub agent dev

# N tests that start a cluster each at once: two cores carry two.
TESTS ?= 2
RUN   ?= .

.PHONY: help
help: ## Print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/headwater, bin/hub, bin/agent and bin/dev
	@mkdir -p bin
	@for b in $(BINS); do echo "building bin/$$b"; $(BUILD) -o bin/$$b ./cmd/$$b; done

.PHONY: run
run: build ## Bring the whole system up and watch it do its job on the sample
	@bin/dev run

.PHONY: down
down: ## Stop what `make run` left running
	@bin/dev down

.PHONY: test
test: build cluster-binaries ## Run all tests, the end-to-end stories included
	go test -p $(TESTS) -timeout 20m ./...
	cd tools/k8sdev && go test ./minidns

.PHONY: cluster-binaries
cluster-binaries: build
	@bin/dev prepare

.PHONY: e2e
e2e: build cluster-binaries ## Run the stories of e2e/ (RUN=name for one)
	go test -count=1 -timeout 20m -run '$(if $(filter .,$(RUN)),.,TestStories/$(RUN))' -v ./e2e/...

.PHONY: check
check: ## Check format, vet, lint, the architecture and generated files; changes nothing
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not formatted (run gofmt -w):"; echo "$$out"; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...
	go test -count=1 .
	@dir=$$(mktemp -d); trap 'rm -rf $$dir' EXIT; git ls-files -co --exclude-standard -z | xargs -0 tar cf - 2>/dev/null | tar xf - -C $$dir; \
	  (cd $$dir && bash deploy/generate.sh >/dev/null) && \
	  diff -r api/config $$dir/api/config && diff -r deploy/crds $$dir/deploy/crds || { echo "generated files are stale: run make gen"; exit 1; }

.PHONY: gen
gen: ## Regenerate deep copies and CRDs
	bash deploy/generate.sh

.PHONY: bench
bench: build cluster-binaries ## Measure, and print rows for bench/RESULTS.md
	go run ./bench

.PHONY: images
images: build ## Make OCI images for amd64 and arm64 in dist/, without a container engine
	@bin/dev images --version $(VERSION) --out dist

.PHONY: clean
clean: ## Stop the development system and remove what was built
	@[ ! -x bin/dev ] || bin/dev down
	rm -rf bin dist .dev
