# Everything that is built, tested and run. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Names of the images: $(IMAGE_REGISTRY)/pyrsia-operator:$(IMAGE_TAG) and $(IMAGE_REGISTRY)/pyrsia:$(IMAGE_TAG).
IMAGE_REGISTRY ?= ghcr.io/pyrsia
IMAGE_TAG ?= v0.1.0
PLATFORMS ?= linux/amd64,linux/arm64
DIST ?= dist
# The systems and processors that the plugin of kubectl is compiled for.
PLUGIN_PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64
# Which tests to run, as for `go test -run`.
RUN ?= .
# Which packages test tests.
PACKAGES ?= ./...
# The older releases of Kubernetes that test-releases and test-upgrade-cluster are run on.
RELEASES ?= 1.30.14 1.33.13 1.35.4 1.36.3
# Which packages test-race tests. CI tests the node's, for whose sake the detector is there.
RACE ?= ./...
# Which rows to measure, as a regular expression.
BENCH ?= .
# A checkout of docker-library/official-images, for whole-list and the rows publish-* of bench.
OFFICIAL_IMAGES ?= $(PYRSIA_OFFICIAL_IMAGES)
# docker.io: the demo publishes from Docker Hub and not from a registry on this machine.
UPSTREAM ?=
# How many schedules test-consensus runs.
SEEDS ?= 100000
# Which steps of e2e to run, as a regular expression, on the cluster of an earlier run. All by default, on a new one.
STEPS ?=

TOOL := go tool -modfile=hack/tools.mod
# As build.sh and hack/images compile: what all of them import is compiled once.
GO_RUN := CGO_ENABLED=0 go run -trimpath -gcflags all=-dwarf=false
LDFLAGS := -X main.version=$(IMAGE_TAG) -X github.com/pyrsia/pyrsia-operator/node.Version=$(IMAGE_TAG)

include hack/cluster/cluster.mk
include config/generate.mk

##@ Build

.PHONY: build
build: ## Compile all programs to bin/
	go build -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

.PHONY: plugins
plugins: ## Compile the plugin of kubectl for Linux, macOS and Windows, to dist/ (PLUGIN_PLATFORMS=)
	@for platform in $(PLUGIN_PLATFORMS); do os=$${platform%/*}; arch=$${platform#*/}; suffix=; [ "$$os" != windows ] || suffix=.exe; \
	  echo "kubectl-pyrsia for $$platform"; CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -trimpath -gcflags all=-dwarf=false -ldflags "-s -w $(LDFLAGS)" \
	    -o "$(DIST)/kubectl-pyrsia-$$os-$$arch$$suffix" ./cmd/kubectl-pyrsia || exit 1; done

.PHONY: images
images: ## Build the container images without a container engine, to dist/*.tar (IMAGE_TAG=, PLATFORMS=)
	$(GO_RUN) ./hack/images -registry $(IMAGE_REGISTRY) -tag $(IMAGE_TAG) -platforms $(PLATFORMS) -out $(DIST)

.PHONY: push
push: ## Build the container images and push them to IMAGE_REGISTRY=
	$(GO_RUN) ./hack/images -registry $(IMAGE_REGISTRY) -tag $(IMAGE_TAG) -platforms $(PLATFORMS) -out $(DIST) -push

.PHONY: images-check
images-check: ## Build the images again, elsewhere and without any cache, and compare the digests
	@hack/images/check

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin dist tmp

##@ Test

.PHONY: test
test: ## Run the unit tests and those against a real API server (RUN=REGEXP; PACKAGES=; KUBERNETES=RELEASE)
	@$(REAL_PARTS); go test -timeout 20m -run '$(RUN)' $(PACKAGES)

.PHONY: test-releases
test-releases: ## Run the tests of the API and the controllers on the API servers of older releases (RELEASES=)
	@for release in $(RELEASES); do echo "Kubernetes $$release"; \
	  CI=true $(MAKE) --no-print-directory test KUBERNETES=$$release PACKAGES='./api/... ./cmd/kubectl-pyrsia ./controllers'; done

.PHONY: test-race
test-race: ## Run the tests with the race detector (RACE=PACKAGES, or all; RUN=REGEXP)
	@$(REAL_PARTS); go test -race -timeout 30m -run '$(RUN)' $(RACE)

.PHONY: test-network
test-network: build ## Run the tests of nodes as processes in network namespaces (root; RUN=REGEXP)
	@# The kernel has one table of neighbours for all namespaces, of 1,024 by default: 30 hosts that know each other fill it.
	@sysctl -qw net.ipv4.neigh.default.gc_thresh3=16384 net.ipv6.neigh.default.gc_thresh3=16384
	@$(REAL_PARTS); PYRSIA_NETWORK=1 PYRSIA_BINARY=$(CURDIR)/bin/pyrsia go test -count=1 -v -timeout 15m -run '$(RUN)' ./node/p2ptest

.PHONY: whole-list
whole-list: ## Publish the whole list of official images, for minutes (OFFICIAL_IMAGES=a checkout of docker-library/official-images)
	@$(REAL_PARTS); PYRSIA_OFFICIAL_IMAGES='$(OFFICIAL_IMAGES)' go test -count=1 -v -timeout 90m -run '^TestWholeList$$' ./controllers

.PHONY: scale
scale: ## Run up to 1,000 nodes in one process and write docs/scale.md, for some ten minutes (20 GB of memory)
	PYRSIA_SCALE=$(CURDIR)/docs GOMEMLIMIT=19GiB go test -count=1 -v -timeout 90m -run '^TestScale$$' ./node/internal/p2p

.PHONY: e2e
e2e: ## Run the end-to-end tests on a real cluster, which they start (root; KUBERNETES=RELEASE; STEPS=REGEXP: these alone, on the one that runs)
	PYRSIA_E2E=1 PYRSIA_E2E_STEPS='$(STEPS)' go test -count=1 -v -timeout 30m -run '$(RUN)' ./hack/e2e

.PHONY: test-upgrade-cluster
test-upgrade-cluster: ## Upgrade a cluster in use from the first of RELEASES= to each next one and the present one (root)
	@for release in $(RELEASES); do hack/cluster/build.sh kube@$$release >/dev/null; done
	PYRSIA_UPGRADES='$(RELEASES)' go test -count=1 -v -timeout 60m -run '^TestClusterUpgrade$$' ./hack/e2e

.PHONY: test-families
test-families: build ## Run the demo, and join nodes, on a cluster without IPv4 and on one with IPv4 and IPv6 (root; RUN=ipv6)
	PYRSIA_FAMILIES=1 PYRSIA_BINARY=$(CURDIR)/bin/pyrsia go test -count=1 -v -timeout 60m -run 'TestFamilies/$(RUN)' ./hack/e2e

.PHONY: test-crash
test-crash: ## Kill publishers and mirrors of the ledger at 300 random moments, and 50 times while a set is published
	PYRSIA_CRASH_ROUNDS=300 go test -count=1 -v -timeout 30m ./hack/crash
	@$(REAL_PARTS); PYRSIA_CRASH_ROUNDS=50 go test -count=1 -v -timeout 30m -run '^TestPublisherIsKilled' ./controllers

.PHONY: test-consensus
test-consensus: ## Run the consensus protocol through schedules of all that can go wrong (SEEDS=how many, 100,000 by default)
	PYRSIA_SCHEDULES=$(SEEDS) go test -count=1 -v -timeout 60m -run '^Test(Schedules|Mutations)$$' ./node/internal/quorum

.PHONY: test-attacks
test-attacks: build ## Run the attacks that SECURITY.md names, on real processes and a real cluster (root; RUN=REGEXP)
	@$(REAL_PARTS); PYRSIA_ATTACKS=1 PYRSIA_BINARY=$(CURDIR)/bin/pyrsia go test -count=1 -v -timeout 30m -run '$(RUN)' ./hack/attacks

.PHONY: test-clients
test-clients: ## Pull by real container clients through all that can go wrong (root; RUN=REGEXP; UPDATE=1 writes docs/clients.md)
	PYRSIA_CLIENTS=1 go test -count=1 -v -timeout 30m -run '$(RUN)' -skip Conformance ./hack/clients $(if $(UPDATE),-update)

.PHONY: test-platforms
test-platforms: ## Pull by each container runtime and version that people have, and write docs/platforms.md (root; RUN=ROWS)
	PYRSIA_CLIENTS=1 PYRSIA_PLATFORMS=1 go test -count=1 -v -timeout 60m -run '^TestPlatforms$$/$(RUN)' ./hack/clients -update

.PHONY: conformance
conformance: ## Run the OCI's conformance program against a mirror (read-only mode)
	PYRSIA_CLIENTS=1 go test -count=1 -v -timeout 10m -run Conformance ./hack/clients

.PHONY: soak
soak: ## A day's requests to a mirror in some minutes, with faults all the time
	PYRSIA_SOAK=1 go test -count=1 -v -timeout 30m -run Soak ./hack/clients

.PHONY: bench
bench: build ## Measure against peers and physical limits, to the screen and bench.json (BENCH=REGEXP; EARLIER=the pyrsia of another build, for publish-cpu)
	@$(REAL_PARTS); PYRSIA_BINARY=$(CURDIR)/bin/pyrsia PYRSIA_EARLIER='$(EARLIER)' PYRSIA_OFFICIAL_IMAGES='$(OFFICIAL_IMAGES)' go run ./hack/bench -run '$(BENCH)'

.PHONY: verify
verify: ## Regenerate everything and fail on a difference, then lint
	@before=$$($(CHECKSUMS)); \
	$(MAKE) --no-print-directory generate manifests; \
	diff <(echo "$$before") <($(CHECKSUMS)) || { \
	  git --no-pager diff -- $(GENERATED); \
	  echo "Generated files were out of date: commit what 'make generate manifests' has written." >&2; exit 1; }
	go mod tidy -diff
	$(MAKE) --no-print-directory lint

.PHONY: lint
lint: ## Check format and code: gofmt, go vet, staticcheck, shellcheck
	@files=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	[ -z "$$files" ] || { echo "run 'make fmt', for these files are not as gofmt writes them: $$files" >&2; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...
	@$(SHELLCHECK)

.PHONY: vulncheck
vulncheck: ## Check the code and what it depends on for known vulnerabilities, if their database can be reached
	@db=$${GOVULNDB:-https://vuln.go.dev}; \
	if curl -sf --max-time 20 -o /dev/null $$db/index/db.json; then $(TOOL) govulncheck -db $$db ./...; \
	else echo "vulnerabilities were not checked: $$db cannot be reached"; fi

.PHONY: fmt
fmt: ## Format the code
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')

##@ Deploy to the cluster of the current kubeconfig

.PHONY: deploy
deploy: ## Install the operator (IMAGE_REGISTRY=, IMAGE_TAG=)
	kubectl kustomize config/default | sed -E '$(SET_IMAGES)' | kubectl apply --server-side -f -
	kubectl -n pyrsia-system rollout status deployment/pyrsia-operator --timeout=120s

.PHONY: undeploy
undeploy: ## Remove the operator, its custom resources and all that they own
	if kubectl get crd artifacts.pyrsia.io >/dev/null; then \
	  for kind in officialimagesets artifacts pyrsianodes; do kubectl delete $$kind --all -A --timeout=180s; done; fi
	kubectl delete -k config/default --ignore-not-found

##@ Demo

.PHONY: demo
demo: ## Show everything on a real cluster on this machine, and leave it running (root; UPSTREAM=docker.io)
	@hack/demo/fetch.sh & trap "kill $$! 2>/dev/null || true" EXIT; \
	$(GO_RUN) ./hack/demo -upstream '$(UPSTREAM)'

.PHONY: demo-down
demo-down: cluster-down ## End the demo's cluster and remove all that it made
	rm -rf tmp/demo

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-zA-Z0-9_-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

GENERATED := api config charts docs/api.md docs/permissions.md
CHECKSUMS = git ls-files -co --exclude-standard -- $(GENERATED) | xargs sha256sum
# REAL_PARTS gives the tests a real API server, a real registry and a real object store. Without them
# the tests that need them are skipped; not so in CI.
define REAL_PARTS
if kube=$$(hack/cluster/build.sh kube$(KUBERNETES:%=@%)); then export KUBEBUILDER_ASSETS=$$kube/bin; \
elif [ "$${CI:-}" = true ]; then exit 1; fi; \
if debian=$$(hack/cluster/debian.sh); then export PYRSIA_DOCKER_REGISTRY=$$debian/docker-registry; \
elif [ "$${CI:-}" = true ]; then exit 1; fi; \
if s3=$$(hack/cluster/build.sh s3); then export PYRSIA_S3_GATEWAY=$$s3/bin/versitygw; \
elif [ "$${CI:-}" = true ]; then exit 1; fi
endef
SHELLCHECK = if command -v shellcheck >/dev/null; \
	then git ls-files -co --exclude-standard | xargs grep -lE '^\#!.*[/ ](ba)?sh( |$$)' | xargs shellcheck; \
	elif [ "$${CI:-}" = true ]; then echo "shellcheck is not installed" >&2; exit 1; \
	else echo "shellcheck is not installed: shell scripts are not checked"; fi
SET_IMAGES = s|ghcr.io/pyrsia/(pyrsia(-operator)?):v0.1.0|$(IMAGE_REGISTRY)/\1:$(IMAGE_TAG)|
