# What CI runs is `make test`. Each target that needs root asks sudo for it.
as-root := $(CURDIR)/internal/ci/as-root

# In CI a test that cannot run is a failure.
ifeq ($(CI),true)
export WGJAIL_TEST_ALL := 1
endif

.NOTPARALLEL:
.PHONY: build demo test tools lint test-race test-root test-vm fuzz bench clean

build:
	CGO_ENABLED=0 go build -trimpath -o wgjail ./cmd/wgjail

demo: build
	$(as-root) ./wgjail demo

test: tools lint build test-race test-root test-vm

tools:
	$(as-root) true
	internal/ci/install

lint:
	internal/ci/lint

test-race:
	go test -race -timeout 8m -exec $(as-root) ./...

test-root:
	CGO_ENABLED=0 go test -timeout 8m -exec $(as-root) ./...

test-vm:
	internal/vm/test

fuzz:
	internal/ci/fuzz

bench:
	go test -exec $(as-root) -run '^$$' -bench . -benchmem ./...

clean:
	rm -f wgjail
