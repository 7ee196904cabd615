package jail

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// A Result is how a probe ended.
type Result string

// What a probe can say.
const (
	Passed        Result = "passed"
	Failed        Result = "failed"
	NotApplicable Result = "not applicable" // there is nothing to look at, and Why says why
)

// A Finding is what one probe of Check found.
type Finding struct {
	ID     string `json:"id"`    // stays the same from version to version
	Probe  string `json:"probe"` // what was looked at, in a few words
	Result Result `json:"result"`
	Why    string `json:"why"`          // one line
	Do     string `json:"do,omitempty"` // what to do about a failure
}

// A CheckReport is all that Check found.
type CheckReport struct {
	Name     string    `json:"name"`
	OK       bool      `json:"ok"` // no probe has failed
	Probes   []Finding `json:"probes"`
	Warnings []string  `json:"warnings"`
}

// CheckOptions say what Check does besides looking.
type CheckOptions struct {
	// Patience is how long it waits for answers out of the tunnel; 0 is five
	// seconds. Nothing waits in a jail whose tunnel is as it should be.
	Patience time.Duration

	// Egress is the URL of a page that says whom it sees. It is fetched from
	// inside and from the host. "": nothing is fetched.
	Egress string
}

// InsideCommand is the hidden command under which wgjail runs as the new
// program that Check looks at. It calls Inside.
const InsideCommand = "inside"

// Check looks whether the jail called name is as it was made, and whether it
// holds. Besides reading what the kernel says, it starts a program in the jail,
// as a user without rights, and sends packets from there: a query for the name
// servers of the root to the jail's name servers, the same to ports of name
// servers at addresses that nobody has, which must be refused, and echo
// requests; and one of those queries past the packet filter, whose answer must
// not come in. Nothing is changed.
//
// It must run on the host. The error is ErrNotUp if there is no such jail; that
// a probe fails is not an error.
func Check(ctx context.Context, name string, opts CheckOptions) (*CheckReport, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	s, err := loadState(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, notUp(name)
	}
	if err != nil {
		return nil, err
	}
	if opts.Patience == 0 {
		opts.Patience = 5 * time.Second
	}
	c := &checker{state: s, opts: opts}
	defer c.close()
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	r := &CheckReport{Name: name, OK: true, Probes: []Finding{}, Warnings: []string{}}
	for _, p := range c.inspections() {
		v := c.run(ctx, p)
		r.OK = r.OK && v.result != Failed
		r.Probes = append(r.Probes, Finding{ID: p.id, Probe: p.what, Result: v.result, Why: v.why, Do: v.do})
	}
	r.Warnings = slices.Concat(r.Warnings, c.twins(), c.strangeLinks(), c.waysOut())
	return r, ctx.Err()
}

// A checker is one call of Check.
type checker struct {
	*state
	opts CheckOptions

	lost      error             // why there is no namespace
	ns        *netnsx.Namespace // nil if there is none
	visitor   *visitor          // nil if it could not be started
	refused   error             // why not
	programs  []Process         // inside, without the visitor
	dev       *wgtypes.Device   // nil if WireGuard does not answer
	silent    bool              // no handshake: nothing comes back
	answering []netip.Addr      // the name servers that do
	pair      int               // the number of the pair's end in the jail; -1: there is none; 0: not looked yet
}

// An inspection looks at one thing.
type inspection struct {
	id, what string
	run      func(context.Context) outcome
}

// inspections are all that is looked at, in the order of the table. The handshake
// and the name servers come before those that need an answer.
func (c *checker) inspections() []inspection {
	return []inspection{
		{"namespace", "network namespace", c.probeNamespace},
		{"keeper", "keeper", c.part(partKeeper, "the keeper runs")},
		{"interfaces", "interfaces", c.probeInterfaces},
		{"tunnel", "tunnel as configured", c.probeTunnel},
		{"routes", "routes", c.probeRoutes},
		{"ipv6", "IPv6", c.probeIPv6},
		{"link-local", "link-local addresses", c.probeLinkLocal},
		{"rules", "firewall rules", c.part(partRules, "the rules for name servers are as they were made")},
		{"redirections", "forwards in veth mode", c.probeRedirections},
		{"sysctls", "sysctls", c.probeSysctls},
		{"files", "files", c.probeFiles},
		{"tunnel-socket", "the tunnel's socket", c.probeTunnelSocket},
		{"program-sockets", "sockets of programs", c.probeProgramSockets},
		{"capabilities", "rights of programs", c.probeCapabilities},
		{"masks", "what programs see", c.probeMasks},
		{"dns-refused", "other name servers", c.probeOtherServers},
		{"handshake", "handshake", c.probeHandshake},
		{"dns", "name servers", c.probeServers},
		{"inbound", "inbound on the tunnel", c.probeInbound},
		{"mtu", "MTU", c.probeMTUPath},
		{"egress", "address outside", c.probeEgress},
	}
}

func (c *checker) run(ctx context.Context, p inspection) outcome {
	if c.ns == nil && p.id != "namespace" {
		return skipped("there is no namespace to look into")
	}
	return p.run(ctx)
}

// open gets at all that there is. It fails only where a report would make no
// sense.
func (c *checker) open(ctx context.Context) error {
	ns, err := c.openNamespace()
	if err != nil {
		c.lost = err
		return nil
	}
	c.ns = ns
	if err := OnHost(); err != nil {
		return err
	}
	if c.programs, err = Processes(ns); err != nil {
		return err
	}
	c.visitor, c.refused = startVisitor(ctx, c.Name)
	c.dev, _ = readDevice(ns, c.Name)
	return nil
}

func (c *checker) close() {
	if c.visitor != nil {
		c.visitor.close()
	}
	if c.ns != nil {
		c.ns.Close()
	}
}

// An outcome is a Finding without its name.
type outcome struct {
	result  Result
	why, do string
}

func passed(format string, args ...any) outcome {
	return outcome{result: Passed, why: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) outcome {
	return outcome{result: NotApplicable, why: fmt.Sprintf(format, args...)}
}

// failed takes the way out first.
func failed(do, format string, args ...any) outcome {
	return outcome{Failed, fmt.Sprintf(format, args...), do}
}

// unknown is the outcome where the system does not say what must be known: what
// is not proved has not passed.
func unknown(err error) outcome { return failed("", "it cannot be looked at: %v", err) }

// again is what puts back whatever up makes.
func (c *checker) again() string { return fmt.Sprintf("wgjail up %s.conf puts it back", c.Name) }

// anew is for what up leaves alone.
func (c *checker) anew() string { return fmt.Sprintf("wgjail down %s, then up again", c.Name) }

// part returns the probe for a part that up made.
func (c *checker) part(name, whole string) func(context.Context) outcome {
	return func(context.Context) outcome {
		for _, p := range c.parts(c.ns) {
			if p.name != name {
				continue
			}
			if err := p.missing(); err != nil {
				return failed(c.again(), "%v", err)
			}
		}
		return passed("%s", whole)
	}
}

func (c *checker) probeNamespace(context.Context) outcome {
	if c.lost != nil {
		do := hint.Of(c.lost)
		if do == "" {
			do = c.again()
		}
		return failed(do, "%v", c.lost)
	}
	return passed("%s is the one that was made", netnsx.Path(c.Name))
}
