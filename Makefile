# Footfall's one entry for people and for CI. Every target sets up what it needs; nothing leaves the checkout.
# The longer steps are scripts beside this file; what stands here is which step needs which.
#
# Variables, on the command line or in the environment:
#   ONCE=1             make run ends after its summary
#   TENSORFLOW=gpu     set up with the wheel for NVIDIA GPUs
#   PYTHON=...         the Python to set up with
#   LINT=0             make test without the linters
#   FUZZTIME=30s       how long make fuzz gives each target
#   ROUNDS=20 SEED=... how long make chaos goes on, and what it repeats
#   ONLY=...           faults that make chaos has, by a part of their names
#   LOGS=...           where make chaos keeps what its nodes said
#   SOAK=30m           how long make soak goes on
#   NODES=3            how many nodes make cluster starts
#   SECURE=1           make cluster with TLS, tokens and gossip keys
#   CLUSTER_DIR=...    where make cluster keeps its data from run to run (without it: nowhere)
#   RABBITMQ_DIR=...   where make rabbitmq keeps its data from run to run (without it: nowhere)
#   POSTGRES_DIR=...   the same of make postgres

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Settings that scripts read.
export TENSORFLOW ?= cpu
export PYTHON
export PATH := $(CURDIR)/.tools/bin:$(PATH)
# Go asks git about the checkout, and stops where git distrusts its owner, as it does in many containers. VERSION stands in for that.
export GOFLAGS := $(strip $(shell go env GOFLAGS 2>/dev/null) -buildvcs=false)

VERSION  := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -X main.version=$(VERSION)
FUZZTIME ?= 30s

# Recipes that compile against TensorFlow begin with this: what `make env` prints, in the recipe's own shell.
WITH_ENV = eval "$$(scripts/env.sh)" &&

# --- Tools, each at one version -------------------------------------------------------------------------------------------

GOLANGCI_LINT = golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0
GENERATORS = \
	"buf github.com/bufbuild/buf/cmd/buf v1.75.0" \
	"protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go v1.36.12" \
	"protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc v1.6.2" \
	"protoc-gen-go-vtproto github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto v0.6.1-0.20240319094008-0393e58bdf10" \
	"protoc-gen-grpc-gateway github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway v2.33.0" \
	"protoc-gen-openapiv2 github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2 v2.33.0"

# --- For users ------------------------------------------------------------------------------------------------------------

.PHONY: help
help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## one node with a real year of retail flowing through it; Ctrl-C ends it (ONCE=1: after the summary)
	@exec bin/footfall demo $(if $(filter-out 0,$(ONCE)),--once)

.PHONY: build
build: setup ## both binaries, into bin/
	@[ -e bin/footfall-node ] || echo "footfall: building both binaries (a few minutes the first time, without Go's cache)" >&2
	@CGO_ENABLED=0 go build -ldflags "$(LDFLAGS)" -o bin/footfall ./cmd/footfall
	@$(WITH_ENV) go build -ldflags "$(LDFLAGS)" -o bin/footfall-node ./cmd/footfall-node

.PHONY: setup
setup: ## Python's packages and the TensorFlow C library, into .venv (run by every target that needs them)
	@scripts/setup.sh

.PHONY: env
env: setup ## prints what a bare go command needs, for eval "$(make -s env)"
	@scripts/env.sh

.PHONY: train
train: build ## trains every model from the data set into models/, with its evaluation
	@TF_CPP_MIN_LOG_LEVEL=2 .venv/bin/python -m training

.PHONY: bench
bench: build ## the benchmarks as ratios against the limit in the same run; also in bench/results.json
	@bin/footfall bench --results bench/results.json

.PHONY: cluster
cluster: build rabbitmq-install postgres-install ## three nodes with RabbitMQ, PostgreSQL and Prometheus, until Ctrl-C
	@scripts/servers.sh prometheus || echo "footfall: the cluster goes without Prometheus" >&2
	@CGO_ENABLED=0 go build -o build/cluster ./deploy/local/cluster
	@exec build/cluster $(if $(filter-out 0,$(SECURE)),--secure) $(if $(CLUSTER_DIR),--dir "$(CLUSTER_DIR)") $(if $(NODES),--nodes $(NODES))

.PHONY: rabbitmq
rabbitmq: rabbitmq-install ## a RabbitMQ broker of its own on free ports, until Ctrl-C
	@CGO_ENABLED=0 go build -o build/rabbitmq ./deploy/local/rabbitmq
	@exec build/rabbitmq $(if $(RABBITMQ_DIR),--dir "$(RABBITMQ_DIR)")

.PHONY: rabbitmq-install
rabbitmq-install: ## RabbitMQ on this machine, where it is missing; it never starts by itself
	@scripts/servers.sh rabbitmq

.PHONY: postgres
postgres: postgres-install ## a PostgreSQL server of its own on a free port, until Ctrl-C
	@CGO_ENABLED=0 go build -o build/postgres ./deploy/local/postgres
	@exec build/postgres $(if $(POSTGRES_DIR),--dir "$(POSTGRES_DIR)")

.PHONY: postgres-install
postgres-install: ## PostgreSQL on this machine, where it is missing; it never starts by itself
	@scripts/servers.sh postgres

.PHONY: prometheus-install
prometheus-install: ## Prometheus on this machine, where it is missing; it never starts by itself
	@scripts/servers.sh prometheus

.PHONY: clean
clean: ## removes what builds made (not data/, .venv/ and .tools/)
	@rm -rf bin build
	@find . -name .git -prune -o -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# --- For contributors -----------------------------------------------------------------------------------------------------

# The quick checks first, the linters last: they take longest to install.
.PHONY: test
test: build generate-check tidy-check test-go test-python test-deploy $(if $(filter 0,$(LINT)),,lint) ## every test and check; what CI runs (LINT=0: without the linters)
	@echo "footfall: every test passed" >&2

# The parts of make test share two cores and one screen.
.NOTPARALLEL:

.PHONY: test-go
test-go: setup rabbitmq-install postgres-install prometheus-install oip-client ## the Go tests alone
	@$(WITH_ENV) scripts/test-go.sh

.PHONY: chaos
chaos: setup rabbitmq-install postgres-install ## a cluster under load whose nodes, network and servers fail (ROUNDS=20, SEED=, ONLY=, LOGS=)
	@$(WITH_ENV) FOOTFALL_HEAVY=1 FOOTFALL_CHAOS_ROUNDS=$(or $(ROUNDS),20) FOOTFALL_CHAOS_SEED=$(SEED) FOOTFALL_CHAOS_LOGS=$(abspath $(LOGS)) FOOTFALL_CHAOS_ONLY="$(ONLY)" \
		go test -count 1 -timeout 24h -v -run 'TestChaos|TestPromises' ./node/chaos

.PHONY: soak
soak: setup rabbitmq-install postgres-install ## half an hour of a cluster whose nodes come and go under load: memory stays flat, nothing is lost (SOAK=30m)
	@$(WITH_ENV) FOOTFALL_SOAK=$(or $(SOAK),30m) FOOTFALL_CHAOS_SEED=$(SEED) FOOTFALL_CHAOS_LOGS=$(if $(LOGS),$(abspath $(LOGS))) \
		go test -count 1 -timeout 24h -v -run TestSoak ./node/chaos

.PHONY: oip-client
oip-client: setup ## an outside client of the Open Inference Protocol, for a test
	@scripts/oip-client.sh

.PHONY: test-python
test-python: build ## the Python tests alone
	@scripts/test-python.sh

.PHONY: test-deploy
test-deploy: setup ## the checks of images, compose and the chart alone
	@scripts/test-deploy.sh

.PHONY: fuzz
fuzz: setup ## every fuzz target for FUZZTIME (30s)
	@$(WITH_ENV) FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

.PHONY: lint
lint: setup tool-golangci-lint tools-generate ## the linters, among them the import directions between rooms
	@echo "footfall: linters" >&2
	@$(WITH_ENV) golangci-lint run ./...
	@buf lint
	@[ ! -d training ] || .venv/bin/ruff check training

.PHONY: fmt
fmt: setup tool-golangci-lint tools-generate ## formats Go, protobuf and Python
	@golangci-lint fmt ./...
	@buf format --write
	@[ ! -d training ] || .venv/bin/ruff format training

.PHONY: generate
generate: tools-generate ## the code of messages/proto
	@scripts/generate.sh

.PHONY: generate-check
generate-check: tools-generate ## fails where committed generated code is not what its sources give
	@echo "footfall: comparing the generated code with its sources" >&2
	@scripts/generate.sh --check

.PHONY: dashboards
dashboards: ## Grafana's dashboards, as their code makes them (make test compares)
	@go run ./deploy/grafana/generate

.PHONY: tidy-check
tidy-check: ## fails where go.mod and go.sum are not what the code imports
	@{ go mod tidy -diff && cd deploy/check && go mod tidy -diff; } || { echo "footfall: go.mod or go.sum is not tidy; run go mod tidy and commit" >&2; exit 1; }

.PHONY: lock
lock: ## resolves requirements*.in into the pinned requirements*.txt
	@scripts/lock.sh

.PHONY: tool-golangci-lint tools-generate
tool-golangci-lint:
	@scripts/tool.sh $(GOLANGCI_LINT)

tools-generate:
	@for tool in $(GENERATORS); do scripts/tool.sh $$tool; done
