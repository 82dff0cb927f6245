# The commands a contributor needs; make help lists them. Everything that is installed goes below .tools.

SHELL := /bin/bash -o pipefail
TOOLS := $(CURDIR)/.tools
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
STEP_CA := github.com/smallstep/certificates/cmd/step-ca@v0.30.2
STEP := github.com/smallstep/cli/cmd/step@v0.30.2
PEBBLE := github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1
CADDY := github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9
AXE := 4.14.1
XTERM := 6.0.0
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
NFPM := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
CYCLONEDX := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
NODE_MODULES := $(TOOLS)/node_modules/.axe-core-$(AXE)-xterm-$(XTERM)

.PHONY: build help deb test demo demo-fleet lint rules race lives faults fuzz hostile browser pictures e2e vault vault-server soak soak-short scale bench allproviders check steps clean

build: ## bin/maascert, one static binary
	CGO_ENABLED=0 go build -trimpath -buildvcs=auto -ldflags '-s -w' -o bin/maascert ./cmd/maascert

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name does; do printf '%-13s%s\n' "$$name" "$$does" | fold -s -w 110 | sed '2,$$s/^/             /'; done

deb: $(TOOLS)/nfpm $(TOOLS)/cyclonedx-gomod ## bin/dist: Debian packages and tarballs for amd64 and arm64, what is in them (CycloneDX, modules with their licences), and checksums; the same commit gives the same bytes
	go run ./internal/packaging

test: ## all tests that need nothing but Go
	go test ./...

demo: build ## the main job, for real, on this machine's loopback
	CGO_ENABLED=0 go build -buildvcs=false -o bin/demo ./examples/demo
	bin/demo bin/maascert

demo-fleet: build ## three hosts, one database, a host killed in the middle of a renewal, a fail-over; needs root, ip, nsenter, nginx, haproxy and postgresql-15
	CGO_ENABLED=0 go build -buildvcs=false -o bin/demo-fleet ./examples/demo-fleet
	bin/demo-fleet bin/maascert

lint: $(TOOLS)/staticcheck $(TOOLS)/golangci-lint ## gofmt, vet, staticcheck, golangci-lint with .golangci.yaml, both modules tidy
	@unformatted=$$(gofmt -l $$(find . -path ./.tools -prune -o -name '*.go' -print)); test -z "$$unformatted" || { echo "not gofmt'ed: $$unformatted"; exit 1; }
	go vet ./...
	go vet -tags e2e,hostile,browser,faults,vault ./...
	$(TOOLS)/staticcheck ./...
	$(TOOLS)/staticcheck -tags e2e,hostile,browser,faults,vault ./...
	$(TOOLS)/golangci-lint run ./...
	go mod tidy -diff
	cd examples/allproviders && go mod tidy -diff

rules: ## the alert rules for Prometheus, with their own tests; needs promtool
	cd examples/prometheus && promtool check config prometheus.yaml && promtool test rules rules_test.yaml

race: ## the tests once more, in random order and with the race detector, which needs a C compiler
	go test -race -shuffle=on -timeout 30m ./...

lives: ## two thousand lives of a deployment in fake time, and two hundred interrupted renewals; LIVES sets how many, LIFE_SEED=7 which
	LIFE_COUNT=$(LIVES) go test -count=1 -timeout 40m -run TestNoEndpointServesAnExpiredCertificate -v ./internal/lifecycle | grep -v '^=== '
	INTERRUPTED_RUNS=200 go test -count=1 -timeout 20m -run TestM1AnInterruptedPassTellsNoLie ./internal/command
LIVES ?= 2000

faults: ## an error, a crash, a full disk, a hang, an end or a lost lock wherever a renewal touches the world, with files and with PostgreSQL: what is served stays served, nothing is said that was not seen, and the next run mends it; and a search for every secret wherever one could get out; FAULTS=all takes every single time; needs postgresql-15
	FAULTS=$(FAULTS) go test -count=1 -timeout 60m -tags faults -parallel 32 -run 'TestFaultsAtEveryPoint|TestNoSecretGetsOut' -v ./internal/command | grep -v '^=== \|^ *--- PASS.*/walk/'

fuzz: ## what comes from outside, each kind for FUZZTIME: configuration, stored and sealed documents, PEM, nginx's and nftables' files, words of MAAS and of CAs: whatever they hold, it is read in bounds
	@mkdir -p $(TOOLS); for file in $$(grep -rl '^func Fuzz' --include='*_test.go' acme certstore maasconfig notify internal); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' $$file); do \
			go test ./$$(dirname $$file) -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x >$(TOOLS)/fuzz.log 2>&1 || { grep -q 'context deadline exceeded' $(TOOLS)/fuzz.log && ! grep -q 'Failing input\|seed corpus entry\|panic:\|_test.go:' $(TOOLS)/fuzz.log; } || { cat $(TOOLS)/fuzz.log; exit 1; }; \
			echo "$$target ($$(dirname $$file)): $$(sed -n 's/^fuzz: elapsed: //p' $(TOOLS)/fuzz.log | tail -1)"; \
		done; done
FUZZTIME ?= 10s
# Go 1.26 may take its own end of the time for a failure, of which there is no input (golang/go#75804).

hostile: ## a lying CA, forged regions, a hostile DNS, local users, and a thousand requests a second: memory, disk and time stay bounded, and the real ones work afterwards
	go test -count=1 -timeout 20m -tags hostile -run TestHostile ./internal/command

browser: $(NODE_MODULES) ## the status page in Chromium, in both schemes and three widths, healthy and broken; axe-core finds nothing; MAASCERT_SCREENSHOTS=DIR keeps pictures; needs chromium, npm and fonts-dejavu-core
	MAASCERT_NODE_MODULES=$(TOOLS)/node_modules go test -tags browser -count=1 -timeout 20m -v -run 'TestThePageInABrowser|TestPictures' ./internal/command

pictures: $(NODE_MODULES) ## those of the README, made anew by the real program; needs what make browser needs
	mkdir -p examples/pictures
	MAASCERT_PICTURES=$(CURDIR)/examples/pictures MAASCERT_NODE_MODULES=$(TOOLS)/node_modules go test -tags browser -count=1 -timeout 20m -run TestPictures ./internal/command

e2e: build deb $(TOOLS)/debian $(TOOLS)/step-ca $(TOOLS)/step $(TOOLS)/caddy $(TOOLS)/pebble ## real CAs, proxies, name servers, PostgreSQL and Prometheus, and the packages on a Debian of their own under systemd; needs root, debootstrap, systemd-container, lintian, ansible-lint, git, nginx, haproxy, apache2, named, ip, systemd-analyze, prometheus, prometheus-alertmanager, prometheus-node-exporter, prometheus-blackbox-exporter, postgresql-15, pgbouncer, nsenter, unshare, curl, openssl, certbot, lego, dehydrated, nftables, ufw and libmonitoring-plugin-perl
	MAASCERT_E2E_TOOLS=$(TOOLS) MAASCERT_E2E_BINARY=$(CURDIR)/bin/maascert go test -tags e2e -count=1 -timeout 30m -v ./certstore/postgres ./internal/e2e

vault: build vault-server ## HashiCorp Vault keeps the keys: what it has to do, on files and on PostgreSQL; sealed, stopped and lying at every request of a renewal; the fleet's chaos in 25 rounds; the search for secrets; needs what make e2e needs, and twenty minutes more the first time, to compile Vault
	MAASCERT_E2E_TOOLS=$(TOOLS) go test -count=1 -timeout 20m -tags vault -v ./certstore/vaultkeys | grep -v '^=== \|^ *--- PASS'
	MAASCERT_E2E_TOOLS=$(TOOLS) go test -count=1 -timeout 20m -tags e2e,vault -run Vault -v ./certstore/postgres ./internal/command | grep -v '^=== \|^ *--- PASS'
	MAASCERT_E2E_TOOLS=$(TOOLS) FAULTS=$(FAULTS) go test -count=1 -timeout 60m -tags faults,vault -parallel 32 -run WithVault -v ./internal/command | grep -v '^=== \|^ *--- PASS'
	MAASCERT_E2E_TOOLS=$(TOOLS) MAASCERT_E2E_BINARY=$(CURDIR)/bin/maascert go test -count=1 -timeout 30m -tags e2e,vault -run TestChaosWithVault -v ./internal/e2e | grep -v '^=== '

vault-server: ## Vault's own core with what the tests need of it, .tools/vault
	@mkdir -p $(TOOLS); flock $(TOOLS)/vault.lock $(MAKE) --no-print-directory $(TOOLS)/vault

soak-short: ## a week of one-day certificates and three hours of ten-minute ones in a fleet of three, while everything fails at random: renewed in time or told, and nothing left behind; needs postgresql-15; SEED picks other failures
	SOAK_SEED=$(SEED) go test -count=1 -timeout 20m -tags faults -run TestSoak -v ./internal/command | grep -v '^=== '

soak: build ## a year and a week of make soak-short, the fleet of make e2e in 200 rounds of chaos, and minutes of make fuzz; SOAK sets how many rounds, SEED which
	SOAK_PART=100 SOAK_SEED=$(SEED) go test -count=1 -timeout 6h -tags faults -run TestSoak -v ./internal/command | grep -v '^=== '
	MAASCERT_SOAK_ROUNDS=$(SOAK) MAASCERT_SOAK_SEED=$(SEED) MAASCERT_E2E_BINARY=$(CURDIR)/bin/maascert go test -tags e2e -count=1 -timeout 90m -v -run TestChaos ./internal/e2e
	$(MAKE) fuzz FUZZTIME=3m
SOAK ?= 200
SEED ?= 1

scale: ## a hundred thousand deployments on one CA, in fake time; DEPLOYMENTS sets how many
	SCALE_DEPLOYMENTS=$(DEPLOYMENTS) go test -count=1 -timeout 60m -v -run TestScale ./internal/lifecycle
DEPLOYMENTS ?= 100000

bench: build ## what an issuance takes, beside lego's library, certbot and whatever else is installed; BENCH="-names 10 -rtt 50ms" for a part of it
	go build -buildvcs=false -o bin/bench ./internal/bench
	bin/bench -tools $(TOOLS) $(BENCH)

allproviders: ## bin/maascert-allproviders, with all of lego's DNS providers, which needs 160 more modules
	cd examples/allproviders && go vet ./... && go test ./...
	cd examples/allproviders && CGO_ENABLED=0 go build -trimpath -buildvcs=auto -ldflags '-s -w' -o $(CURDIR)/bin/maascert-allproviders .

# What CI runs after the README's own commands: steps that compute, and beside them steps that most of the time wait. Of these faults is the last,
# because it computes as well: the tests that measure time are over then.
COMPUTING := lint vault-server race lives fuzz allproviders
WAITING := rules hostile browser soak-short e2e vault faults
check: $(COMPUTING) $(WAITING) ## what CI runs after the README's own commands

steps: # those of check, in two lines, for whoever runs the two kinds beside each other
	@echo $(COMPUTING)
	@echo $(WAITING)

clean:
	rm -rf bin .tools

$(TOOLS)/staticcheck:
	GOBIN=$(TOOLS) go install $(STATICCHECK)
$(TOOLS)/golangci-lint:
	CGO_ENABLED=0 GOBIN=$(TOOLS) go install $(GOLANGCI)
$(TOOLS)/step-ca:
	CGO_ENABLED=0 GOBIN=$(TOOLS) go install $(STEP_CA)
$(TOOLS)/step:
	CGO_ENABLED=0 GOBIN=$(TOOLS) go install $(STEP)
$(TOOLS)/pebble:
	CGO_ENABLED=0 GOBIN=$(TOOLS) go install $(PEBBLE)
$(TOOLS)/nfpm:
	CGO_ENABLED=0 GOBIN=$(TOOLS) go install $(NFPM)
$(TOOLS)/cyclonedx-gomod:
	CGO_ENABLED=0 GOBIN=$(TOOLS) go install $(CYCLONEDX)
# A Debian on which nothing is installed yet but what its tests start: systemd, and Ansible.
$(TOOLS)/debian:
	rm -rf $@.new && { debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,python3-apt bookworm $@.new && \
		chroot $@.new apt-get install -qq --no-install-recommends ansible-core && chroot $@.new apt-get clean; } >$(TOOLS)/debootstrap.log 2>&1 || { tail -20 $(TOOLS)/debootstrap.log; exit 1; }
	mv $@.new $@
# A module of its own: Vault's core needs hundreds of others.
$(TOOLS)/vault: $(wildcard certstore/vaultkeys/vaulttest/server/*)
	cd certstore/vaultkeys/vaulttest/server && GOFLAGS=-mod=mod CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o $@ .
$(TOOLS)/caddy:
	CGO_ENABLED=0 GOBIN=$(TOOLS) go install $(CADDY)
$(NODE_MODULES):
	npm install --prefix $(TOOLS) --no-save --no-audit --no-fund --ignore-scripts --loglevel=error axe-core@$(AXE) @xterm/xterm@$(XTERM)
	touch $@
