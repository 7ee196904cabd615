package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// The test binary under the name probe sends canaries from wherever and as
// whoever it is started:
//
//	probe CANARY TARGET...
//
// A target is PROTOCOL/ADDRESS:PORT[/LINK], the protocol udp, tcp or icmp, and
// the link one to bind to (SO_BINDTODEVICE). What is sent to the nth one is the
// canary and n. It prints what became of each, and ends well in any case. A
// target "-" is none, and counts.
//
// With -spin it does so without a pause until SIGTERM, from the first moment at
// which there is a namespace at a path like PATTERN on, and prints how often it has tried:
//
//	probe -spin PATTERN UID CANARY TARGET...
//
// With -lookup it looks up a name as Go does, and with -dial it dials a Unix
// socket: 0 is success.
func probe(args []string) int {
	switch args[0] {
	case "-spin":
		return spin(args[1], args[2], args[3], args[4:])
	case "-lookup":
		addrs, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip4", args[1])
		fmt.Println(addrs, err)
		return len(addrs) ^ 1
	case "-dial":
		_, err := net.Dial("unix", args[1])
		fmt.Println(err)
		if err != nil {
			return 1
		}
		return 0
	}
	lines := make([]string, len(args)-1)
	var wg sync.WaitGroup
	for i, target := range args[1:] {
		if target == "-" {
			continue
		}
		wg.Go(func() {
			lines[i] = fmt.Sprintf("%s: sent", target)
			if err := sendProbe(target, fmt.Appendf(nil, "%s%03d", args[0], i)); err != nil {
				lines[i] = fmt.Sprintf("%s: %v", target, err)
			}
		})
	}
	wg.Wait()
	fmt.Println(strings.Join(slices.DeleteFunc(lines, func(line string) bool { return line == "" }), "\n"))
	return 0
}

func spin(pattern, user, canary string, targets []string) int {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	fmt.Println("waiting")
	var ns *netnsx.Namespace
	for ns == nil && len(ended) == 0 {
		for _, file := range glob(pattern) {
			if ns, _ = netnsx.Open(file); ns != nil {
				break
			}
		}
	}
	tried := make(chan int)
	go func() {
		n := 0
		if err := becomeInsider(ns, user); err != nil {
			fmt.Println(err)
		}
		for ; len(ended) == 0; n++ {
			for _, target := range targets {
				sendProbe(target, []byte(canary))
			}
		}
		tried <- n
	}()
	fmt.Printf("tried %d times\n", <-tried)
	return 0
}

// glob returns what is at paths like pattern; a path is like itself, which takes
// no look into folders.
func glob(pattern string) []string {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}
	}
	files, _ := filepath.Glob(pattern)
	return files
}

// becomeInsider moves the calling goroutine's thread into the namespace and
// gives it another user. Package syscall would change all threads.
func becomeInsider(ns *netnsx.Namespace, user string) error {
	uid, err := strconv.Atoi(user)
	if err != nil {
		return err
	}
	if err := ns.Enter(); err != nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return errno
	}
	return nil
}

// probePatience is how long a probe waits for a connection: much longer than
// one takes, and it does not matter to a packet that leaves.
const probePatience = 300 * time.Millisecond

func sendProbe(target string, data []byte) error {
	proto, rest, _ := strings.Cut(target, "/")
	at, link, _ := strings.Cut(rest, "/")
	to, err := netip.ParseAddrPort(at)
	if err != nil {
		return err
	}
	family, addr := sockaddr(to)
	kind, number := unix.SOCK_DGRAM, 0
	switch {
	case proto == "tcp":
		kind = unix.SOCK_STREAM
	case proto == "icmp" && family == unix.AF_INET: // icmp(7): an echo request, which the kernel completes
		number, data = unix.IPPROTO_ICMP, append([]byte{8, 0, 0, 0, 0, 0, 0, 1}, data...)
	case proto == "icmp":
		number, data = unix.IPPROTO_ICMPV6, append([]byte{128, 0, 0, 0, 0, 0, 0, 1}, data...)
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, number)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
		return err
	}
	if link != "" {
		if err := unix.BindToDevice(fd, link); err != nil {
			return err
		}
	}
	if proto != "tcp" {
		return unix.Sendto(fd, data, 0, addr)
	}
	if err := unix.Connect(fd, addr); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(probePatience.Milliseconds())); n == 0 {
		return errors.Join(err, os.ErrDeadlineExceeded)
	}
	if _, err := unix.Write(fd, data); err != nil {
		return err
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(probePatience.Milliseconds()))
	return err // the echo: the data has arrived
}

// sockaddr is what the kernel calls an address. A zone is a link's index.
func sockaddr(to netip.AddrPort) (family int, addr unix.Sockaddr) {
	if to.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	six := &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	fmt.Sscan(to.Addr().Zone(), &six.ZoneId)
	return unix.AF_INET6, six
}
