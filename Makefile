# `make help` lists the targets. Two matter to a newcomer: `make run` and `make test`.

GO      ?= go
TAGS    := nomsgpack
# VERSION and COMMIT are for a build outside a git repository, where Go cannot find them.
LDFLAGS := -s -w $(if $(VERSION),-X main.linkedVersion=$(VERSION)) $(if $(COMMIT),-X main.linkedCommit=$(COMMIT))
# FIPS=1 builds with the validated cryptographic module, for GODEBUG=fips140=on.
BUILD   := CGO_ENABLED=0 $(if $(FIPS),GOFIPS140=v1.0.0 )$(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)'
TOOL    := $(GO) tool -modfile=tools/go.mod
DEMO    ?=
GRACES  ?= 10s 3s 0s

.DEFAULT_GOAL := help
.PHONY: help build rootfs run demo test test-exact test-chart test-clients e2e test-kube load-kube torture promote siege posts outages test-torture simulate mutants mutate bench shape lint lint-api lint-actions format fuzz check release ready-test ready-e2e ready-api ready-rootfs ready-clients clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build bin/wts, static, without a C compiler
	$(BUILD) -o bin/wts ./cmd/wts

rootfs: build ready-rootfs ## Build the tree of the image in rootfs, without a container engine
	deploy/image/rootfs rootfs

run: build bin/demo ## Run everything on this machine: the service, two providers, a worker, the services of examples: FIPS=1
	bin/demo --dir .demo $(DEMO)

demo: build bin/demo ## Run the same story by itself, and fail if a step fails: FIPS=1
	bin/demo --once --port 0

bin/demo: FORCE
	$(GO) build -tags $(TAGS) -o bin/demo ./test/demo
	mkdir -p bin/examples && $(GO) build -tags $(TAGS) -o bin/examples/ ./examples/...
FORCE:

test: ready-test build ## Test everything on SQLite and PostgreSQL, with the race detector
	CGO_ENABLED=1 $(GO) run ./test/pgtest/withpostgres $(GO) test -race -tags $(TAGS) -timeout 30m ./...
	$(MAKE) test-exact test-chart test-torture

test-exact: ## Test what the race detector would disturb: allocations, and the engine on virtual time
	CGO_ENABLED=0 $(GO) test -tags $(TAGS) -count=1 -run '^(TestExact|TestSimulation)' ./...
	CGO_ENABLED=0 $(GO) test -tags $(TAGS) -run '^$$' -bench . -benchtime 1x ./pkg/issuer ./pkg/kube ./pkg/server # whether they run, not how fast

e2e: build ready-e2e ## Log in at a provider, use the pages in a browser, and verify with clients, none of them ours
	$(GO) test -tags '$(TAGS) e2e' -count=1 -v -timeout 20m ./test/e2e

test-clients: ready-clients ## Give tokens to rclone, R and a Jupyter kernel with requests, httpx and fsspec, and keep a login in a keyring (two minutes)
	CGO_ENABLED=0 $(GO) test -tags '$(TAGS) clients' -count=1 -v -timeout 15m ./test/clients

test-kube: ## Test against a real kube-apiserver and etcd, built once (a quarter of an hour) and kept
	WTS_TEST_KUBE_PROGRAMS=$$(test/kube/build) $(GO) test -tags '$(TAGS) kube' -count=1 -v -timeout 20m ./test/kube

load-kube: ## Make 1,000 new connections a second for 30 s beside 3,000 pods that may not be watched: LOAD=-kube.rate=2000
	CGO_ENABLED=0 $(GO) test -tags $(TAGS) -count=1 -v -run '^TestNewConnectionsWhereWatchingIsForbidden$$' ./pkg/kube -kube.load=30s -kube.rate=1000 -kube.pods=3000 $(LOAD)

test-chart: ## Lint and render the chart with Helm's packages, and decode every manifest strictly
	cd tools && $(GO) test -count=1 ./chart # the chart is outside the module, where Go does not see it change

torture: ready-test ## Hurt real processes for ten minutes at each grace, 10 s, 3 s and none (35 minutes): GRACES=0s TORTURE='-torture.seed=2'
	@failed=0; for grace in $(GRACES); do \
		$(GO) test -tags '$(TAGS) torture' -count=1 -v -timeout 0 -run '^TestTorture$$' ./test/torture \
			-torture.duration=10m -torture.longest=8s -torture.late=20s -torture.grace=$$grace $(TORTURE) || failed=1; \
	done; exit $$failed

promote: ready-test ## Promote a standby that lacks the last second of commits, 20 times (six minutes): PROMOTE=-torture.promotions=3
	$(GO) test -tags '$(TAGS) torture' -count=1 -v -timeout 0 -run '^TestPromotions$$' ./test/torture -torture.promotions=20 $(PROMOTE)

siege: ## Have anonymous callers attack for a minute in every way at once, beside callers who have to be answered
	CGO_ENABLED=0 $(GO) test -tags $(TAGS) -count=1 -v -run '^TestGoodCallersBesideAttackers$$' ./cmd/wts -siege=60s

posts: ready-test ## Let 500 callers meet each of 1,000 expiries, and ask for 600 s of tokens that live for 60 (four minutes)
	$(GO) test -tags '$(TAGS) torture' -count=1 -v -timeout 0 -run '^(TestOnePost|TestPosts)' ./test/torture -torture.pairs=1000 -torture.life=60s

outages: ready-test ## Take the provider and then the database away for five minutes each (three quarters of an hour in all)
	$(GO) test -tags '$(TAGS) torture' -count=1 -v -timeout 0 -run '^TestOutages$$' ./test/torture -torture.outage=5m

test-torture: ready-test ## The short form of the three (three minutes), which runs with the other tests, by itself: it measures time
	$(GO) test -tags '$(TAGS) torture' -count=1 -timeout 10m -p 1 ./test/network ./test/torture

simulate: ## Play 100,000 schedules of faults on the engine alone
	CGO_ENABLED=0 $(GO) test -tags $(TAGS) -count=1 -v -timeout 0 -run '^TestSimulation' ./pkg/broker -simulation.schedules=100000

mutants: ready-test ## Plant the bugs that are kept in test/mutants, and name the test that finds each (a quarter of an hour)
	CGO_ENABLED=0 $(GO) test -tags '$(TAGS) mutants' -count=1 -v -timeout 0 -run '^TestPatches$$' ./test/mutants $(MUTANTS)

mutate: ready-test ## Plant 300 bugs that a seed draws, and want 9 of 10 found (an hour): MUTANTS='-mutants.seed=2 -mutants.count=50'
	CGO_ENABLED=0 $(GO) test -tags '$(TAGS) mutants' -count=1 -v -timeout 0 -run '^TestDrawn$$' ./test/mutants $(MUTANTS)

bench: ready-test ## Measure beside baselines in the same run, print what is wanted next to what was found, and draw docs/performance (half an hour)
	growth=$$(mktemp -d) && trap 'rm -r "$$growth"' EXIT && \
	WTS_BENCH_GROWTH=$$growth CGO_ENABLED=0 $(GO) test -tags $(TAGS) -run '^$$' -bench . -p 1 -timeout 90m $$(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n1 dirname | sort -u) && \
	cd tools && $(GO) run ./plot "$$growth" ../docs/performance

lint: ## Run the linters
	$(TOOL) golangci-lint run ./...

lint-api: ready-api ## Hold api/openapi.yaml to the recommended rules of Redocly, without error or warning
	npx --yes @redocly/cli@2.77.0 lint --extends recommended --format json api/openapi.yaml | jq -e '.problems, (.totals.errors + .totals.warnings == 0)'

shape: ## Measure the house: functions, types, imports, comments, tests
	cd tools && $(GO) test -count=1 -v ./shape

lint-actions: ## Check the workflows of GitHub
	$(GO) run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

format: ## Format the code
	$(TOOL) gofumpt -w .

fuzz: ## Fuzz what parses input, ten seconds each
	@for target in $$(grep -rl --include='*_test.go' '^func Fuzz' . ); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$target); do \
			$(GO) test -tags $(TAGS) -run '^$$' -fuzz "^$$name\$$" -fuzztime 10s ./$$(dirname $$target) || exit 1; \
		done; \
	done

check: ## Check formatting, modules and known vulnerabilities
	@test -z "$$($(TOOL) gofumpt -l .)" || { echo 'not formatted; run: make format'; $(TOOL) gofumpt -l .; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet -tags '$(TAGS) clients e2e kube mutants torture' ./...
	@$(TOOL) govulncheck -tags $(TAGS) ./... || RELEASE=$(RELEASE) test/vulnerabilities-unknown

release: ## Build what is shipped, of a version and with vulnerabilities checked: VERSION=v1.2.3
	@test -n "$(VERSION)" || { echo 'which version? make release VERSION=v1.2.3'; exit 1; }
	$(MAKE) check RELEASE=1
	$(MAKE) rootfs
	bin/wts man bin/man

# What a fresh machine lacks is installed by its own package manager, after asking where there is a terminal (CI=true
# asks nothing); else it is said.
ready-test:
	@test/ready c-compiler postgresql pgbouncer python cryptography jq curl busybox iproute2 faketime

ready-rootfs:
	@test/ready busybox

ready-api:
	@test/ready node jq

ready-e2e:
	@test/ready node jwt authlib requests django simplejwt java jackson chromium
	cd test/e2e/provider && npm ci --no-audit --no-fund --loglevel=error

ready-clients:
	@test/ready rclone r jupyter requests httpx fsspec aiohttp keyring

clean: ## Delete what was built
	rm -rf bin .demo rootfs
