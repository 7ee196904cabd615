package jail

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// An MTUReport says how large a packet gets through the tunnel of a jail, to a
// host on its other side and back.
type MTUReport struct {
	MTU    int        // of the interface, in bytes
	Passes int        // the largest packet that was answered, in bytes with its IP header; 0: none was
	Least  int        // what the jail's families need, in bytes: the MTU is never set lower
	Target netip.Addr // who answered; zero: nobody
}

// Narrow reports whether packets that the interface lets out get lost on the
// way: small ones are answered and large ones are not. That nobody answers at
// all says nothing about sizes.
func (r *MTUReport) Narrow() bool { return r.Passes > 0 && r.Passes < r.MTU }

// ProbeMTU finds the largest packet that gets through the tunnel of the jail
// called name, by real ones: ICMP echo requests that must not be fragmented, to
// the jail's name servers and to the likely address of the server's own end. A
// packet that gets lost for its size is not told from one that was refused; a
// network that blocks ICMP errors (RFC 2923, section 2.1) gives no other sign.
//
//	jail: echo request, DF, n bytes ──► tunnel ──► path ──► server ─┐
//	      echo reply, n bytes       ◄── tunnel ◄── path ◄───────────┘
//
// It takes a round trip where the interface's MTU passes, else some seconds. The
// answer is exact to 16 bytes, to which WireGuard pads what it sends. The error
// is ErrNotUp if there is no such jail, and that of ctx if it ended first: the
// report then has what was found out until then.
func ProbeMTU(ctx context.Context, name string) (*MTUReport, error) {
	ns, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	s, err := loadState(name)
	if err != nil {
		return nil, err
	}
	return s.probeMTU(ctx, ns)
}

// How ProbeMTU asks.
const (
	echoTries = 3           // before the ends count as lost
	echoAgain = 2           // before a size between them does
	echoWait  = time.Second // for the answers to one try
	echoBurst = 8           // sizes asked about at once
	echoSmall = 96          // bytes: passes wherever anything does
	echoGrain = 16          // WireGuard's padding (section 5.4.6 of its paper)
)

// probeMTU is ProbeMTU for those who have the jail open.
func (s *state) probeMTU(ctx context.Context, ns *netnsx.Namespace) (*MTUReport, error) {
	link, err := linkIn(ns, s.Name)
	if err != nil {
		return nil, err
	}
	r := &MTUReport{MTU: link.MTU, Least: min(link.MTU, leastMTU(s.Addresses))}
	var asked []*echoer
	for _, target := range s.echoTargets() {
		e, err := openEcho(ns, s.Name, target)
		if err != nil {
			return nil, err
		}
		defer e.close()
		asked = append(asked, e)
	}
	best := askAll(ctx, asked, slices.Compact([]int{min(r.Least, echoSmall), r.Least, r.MTU}))
	if best == nil {
		return r, context.Cause(ctx)
	}
	r.Target, r.Passes = best.target, best.passed
	if r.Passes >= r.Least {
		r.Passes = widest(r.Passes, r.MTU, func(sizes []int) int { return best.ask(ctx, echoAgain, sizes) })
	}
	if r.Narrow() { // or it was the tunnel that came or went meanwhile
		if again := best.ask(ctx, echoAgain, []int{r.Passes, r.MTU}); ctx.Err() == nil {
			r.Passes = again
		}
	}
	return r, context.Cause(ctx)
}

// askAll asks everybody about sizes and returns one who answered the largest, or
// nil if nobody answered.
func askAll(ctx context.Context, all []*echoer, sizes []int) (best *echoer) {
	enough, cancel := context.WithCancel(ctx)
	defer cancel()
	var asked sync.WaitGroup
	for _, e := range all {
		asked.Go(func() {
			if e.ask(enough, echoTries, sizes) == sizes[len(sizes)-1] {
				cancel() // the others cannot do better
			}
		})
	}
	asked.Wait()
	for _, e := range all {
		if e.passed > 0 && (best == nil || e.passed > best.passed) {
			best = e
		}
	}
	return best
}

// widest returns the largest size that passes, to echoGrain bytes: passes does,
// and most does unless it is greater. ask is given sizes in ascending order and
// returns the largest that passed, or 0.
func widest(passes, most int, ask func(sizes []int) int) int {
	for {
		sizes := between(passes, most)
		if len(sizes) == 0 {
			return passes
		}
		got := ask(sizes)
		if lost, _ := slices.BinarySearch(sizes, got+1); lost < len(sizes) {
			most = sizes[lost]
		}
		passes = max(passes, got)
	}
}

// between returns at most echoBurst multiples of echoGrain that lie between two
// sizes, evenly.
func between(low, high int) []int {
	first, last := low/echoGrain+1, (high-1)/echoGrain
	n := last - first + 1
	var sizes []int
	for i := range min(n, echoBurst) {
		sizes = append(sizes, (first+(2*i+1)*n/(2*min(n, echoBurst)))*echoGrain)
	}
	return sizes
}

// leastMTU is what the families of addresses need, in bytes.
func leastMTU(addresses []netip.Prefix) int {
	if slices.ContainsFunc(addresses, func(a netip.Prefix) bool { return a.Addr().Is6() }) {
		return minimumMTU
	}
	return minimumIPv4MTU
}

// echoTargets returns who may answer in the tunnel: the name servers, and the
// first address of each of the jail's networks, where servers usually have
// themselves. Nobody is asked whom the configuration does not route.
func (s *state) echoTargets() []netip.Addr {
	list := slices.Clone(s.DNS)
	for _, a := range s.Addresses {
		network := a
		if whole := map[bool]int{true: 24, false: 64}[a.Addr().Is4()]; a.Bits() > whole {
			network = netip.PrefixFrom(a.Addr(), whole)
		}
		list = append(list, network.Masked().Addr().Next())
	}
	own := func(t netip.Addr) bool {
		return slices.ContainsFunc(s.Addresses, func(a netip.Prefix) bool { return a.Addr() == t })
	}
	routed := func(t netip.Addr) bool {
		return slices.ContainsFunc(usable(s.Routes), func(r netip.Prefix) bool { return r.Contains(t) })
	}
	var targets []netip.Addr
	for _, t := range list {
		const enough = 4
		if routed(t) && !own(t) && !slices.Contains(targets, t) && len(targets) < enough {
			targets = append(targets, t)
		}
	}
	return targets
}
