# What CI runs is `make test`. Each target that needs root asks sudo for it.
as-root := $(CURDIR)/internal/ci/as-root

# In CI a test that cannot run is a failure.
ifeq ($(CI),true)
export WGJAIL_TEST_ALL := 1
endif

.NOTPARALLEL:
.PHONY: build package demo test tools lint test-race test-command test-package test-boot test-veth test-vm test-vm-full fuzz bench bench-go clean

build:
	CGO_ENABLED=0 go build -trimpath -o wgjail ./cmd/wgjail

# .deb and .rpm, for amd64 and arm64, in dist.
package:
	internal/package/build

demo: build
	$(as-root) ./wgjail demo

test: tools lint build test-race test-command test-veth test-package test-vm

tools:
	$(as-root) true
	internal/ci/install

lint:
	internal/ci/lint

# The packages under the race detector; the command, which is started hundreds of times, as it is shipped.
test-race:
	go test -timeout 20m -race -exec $(as-root) $$(go list ./... | grep -v -e /cmd/ -e /veth$$)

# Most of veth's time is that of iptables, which the race detector does not watch; what runs at once is raced as well.
test-veth:
	go test -timeout 20m -exec $(as-root) ./veth
	go test -race -exec $(as-root) -run 'Test(Watch|Many|ConnectionsEnd)$$' ./veth

test-command:
	CGO_ENABLED=0 go test -timeout 30m -trimpath -exec $(as-root) ./cmd/...

test-package:
	internal/package/test

# A whole Debian with systemd and our package in it: minutes, in emulation, so not part of test.
test-boot:
	internal/boot/test

test-vm:
	internal/vm/test

# All of the command's tests with kernel WireGuard: an hour and more, in emulation, so not part of test.
test-vm-full:
	internal/vm/test-full

fuzz:
	internal/ci/fuzz

bench: build
	$(as-root) ./wgjail bench

# The inner loops, for benchstat.
bench-go:
	go test -exec $(as-root) -run '^$$' -bench . -benchmem ./...

clean:
	rm -f wgjail
