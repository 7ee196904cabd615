package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/provider"
	"github.com/wgjail/wgjail/internal/world"
)

// A trial is something that a jail's rules are there for. Its error says that
// it is not so.
type trial struct {
	name string
	run  func(*ruled) error
}

// A ruled is a jail with services of its own, whose rules are taken away one by
// one.
type ruled struct {
	*lab
	jail  *world.Node
	inner *provider.Services

	patience time.Duration // what is broken does not answer later either
}

// echo sends a datagram to an echo service and wants it back.
func (x *ruled) echo(to string) error {
	return x.exchange(to, []byte("not a query, so it is echoed"))
}

func (x *ruled) exchange(to string, question []byte) error {
	c, err := x.jail.Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(x.patience))
	if _, err := c.Write(question); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 512))
	return err
}

var trials = []trial{
	{"answers come in", func(x *ruled) error { return x.echo(world.InternetV4 + ":7") }},
	{"calls do not come in", func(x *ruled) error { return x.callsComeIn("10.64.0.2") }},
	{"calls do not come in over IPv6", func(x *ruled) error { return x.callsComeIn("fd64::2") }},
	{"a resolver of one's own", func(x *ruled) error { return x.echo("127.0.0.1:53") }},
	{"answers to a client's own address stay inside", func(x *ruled) error { return x.marked(0x57480001) }},
	{"the jail's server", func(x *ruled) error { return x.asks("10.64.0.1") }},
	{"the jail's server over IPv6", func(x *ruled) error { return x.asks("fd64::1") }},
	{"no other server over udp", func(x *ruled) error { return x.stranger("udp", world.InternetV4+":53") }},
	{"no other server over udp and IPv6", func(x *ruled) error { return x.stranger("udp", "["+world.InternetV6+"]:53") }},
	{"no other server over tcp", func(x *ruled) error { return x.stranger("tcp", world.InternetV4+":53") }},
	{"no other server over tcp and IPv6", func(x *ruled) error { return x.stranger("tcp", "["+world.InternetV6+"]:53") }},
	{"no other server over udp with TLS", func(x *ruled) error { return x.stranger("udp", world.InternetV4+":853") }},
	{"no other server over tcp with TLS", func(x *ruled) error { return x.stranger("tcp", world.InternetV4+":853") }},
}

// callsComeIn is an error if a service in the jail is reached from the other end
// of the tunnel.
func (x *ruled) callsComeIn(addr string) error {
	to := netip.AddrPortFrom(netip.MustParseAddr(addr), 7)
	calls := func() (n int) {
		for _, call := range x.inner.Calls() {
			if call.Local == to {
				n++
			}
		}
		return n
	}
	before := calls()
	if err := x.Exit.Do(func() error { return sendProbe("udp/"+to.String(), []byte("call")) }); err != nil {
		return err
	}
	// It has gone in before this comes back.
	if err := x.echo(world.InternetV4 + ":7"); err != nil {
		return err
	}
	if calls() > before {
		return errors.New("one came in")
	}
	return nil
}

func (x *ruled) asks(server string) error {
	before := len(x.Provider.Queries())
	query := []byte{1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'x', 4, 't', 'e', 's', 't', 0, 0, 1, 0, 1} // x.test A
	if err := x.exchange(net.JoinHostPort(server, "53"), query); err != nil {
		return err
	}
	if len(x.Provider.Queries()) == before {
		return errors.New("it was not asked")
	}
	return nil
}

// marked is an error unless what has the mark of --source client is refused on
// its way into the tunnel.
func (x *ruled) marked(mark int) error {
	return x.jail.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
			return err
		}
		_, to := sockaddr(netip.MustParseAddrPort(world.InternetV4 + ":7"))
		if err := unix.Sendto(fd, []byte("answer"), 0, to); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%v; want it refused", err)
		}
		return nil
	})
}

// stranger is an error unless another server is refused at once: connect(2)
// tries again and again after an ICMP error, but not after a reset.
func (x *ruled) stranger(network, at string) error {
	err, want := errors.New("it was reached"), syscall.EPERM
	if network == "tcp" {
		want = syscall.ECONNREFUSED
	}
	if network == "udp" {
		err = x.echo(at)
	} else if c, dialErr := x.jail.Dial(network, at); dialErr != nil {
		err = dialErr
	} else {
		c.Close()
	}
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("%v; want %w", err, want)
}

// failing runs all trials at once and returns what those that failed say, by
// name.
func (x *ruled) failing() map[string]error {
	failed := map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, trial := range trials {
		wg.Go(func() {
			if err := trial.run(x); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[trial.name] = err
			}
		})
	}
	wg.Wait()
	return failed
}

var (
	jailChain = regexp.MustCompile(`^\tchain (\w+) \{`)
	jailRule  = regexp.MustCompile(`^\t\t(.*) # handle (\d+)`)
)

// rules returns chain, rule and handle of each rule in the jail.
func (x *ruled) rules(t *testing.T) [][3]string {
	t.Helper()
	var list [][3]string
	chain := ""
	for line := range strings.Lines(x.jail.Run(t, "nft", "-a", "list", "table", "inet", "wgjail")) {
		if m := jailChain.FindStringSubmatch(line); m != nil {
			chain = m[1]
		} else if m := jailRule.FindStringSubmatch(line); m != nil && !strings.HasPrefix(m[1], "type ") {
			list = append(list, [3]string{chain, m[1], m[2]})
		}
	}
	return list
}

// TestRuleMutations: each rule in the jail is taken away, alone. Then a trial
// must fail, the jail must be reported as broken, and up must put the rule back.
// So no rule is there that nothing depends on, and every trial has failed once.
func TestRuleMutations(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		x := &ruled{lab: l, jail: l.up(t), patience: world.AtMost(20 * time.Second)}
		var err error
		if x.inner, err = provider.Serve(x.jail.Namespace); err != nil {
			t.Fatal(err)
		}
		defer x.inner.Close()
		if failed := x.failing(); len(failed) > 0 {
			t.Fatalf("nothing is missing, but: %v", failed)
		}
		x.patience = world.AtMost(time.Second)
		caught := map[string]error{}
		total := len(x.rules(t))
		for i := range total {
			r := x.rules(t)[i]
			x.jail.Run(t, "nft", "delete", "rule", "inet", "wgjail", r[0], "handle", r[2])
			failed := x.failing()
			for range 2 { // a call that would have come in may be lost on a busy machine
				if len(failed) == 0 {
					failed = x.failing()
				}
			}
			maps.Copy(caught, failed)
			if len(failed) == 0 {
				t.Errorf("without the rule %q of chain %s nothing is different: why is it there?", r[1], r[0])
			}
			t.Logf("without %q of %s: %v", r[1], r[0], failed)
			if s := l.status(t); s.State != "broken" || !slices.ContainsFunc(s.Missing, func(m string) bool { return strings.Contains(m, "chain "+r[0]) }) {
				t.Errorf("without the rule %q the jail is %s: %q", r[1], s.State, s.Missing)
			}
			l.do(t, "up", l.conf)
		}
		if total != 2+6+4 {
			t.Errorf("there are %d rules", total)
		}
		for _, trial := range trials {
			if caught[trial.name] == nil {
				t.Errorf("the trial %q has never failed", trial.name)
			}
		}
	})
}
