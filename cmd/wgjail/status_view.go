package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/wgjail/wgjail/jail"
)

// A view says how a status is shown to people.
type view struct {
	colours bool
	rates   *rates // nil shows none
}

// stateColours are those of terminals: green, yellow and red (ECMA-48).
var stateColours = map[string]string{jail.StateUp: "32", jail.StateStale: "33", jail.StateBroken: "1;31"}

func (v view) print(w io.Writer, list []*jail.Status, elsewhere []jail.ForwardStatus) {
	if len(list) == 0 {
		fmt.Fprintln(w, "there is no jail")
	}
	v.rates.begin()
	for i, s := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		v.printJail(w, s)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for i, f := range elsewhere {
		if i == 0 || f.Netns != elsewhere[i-1].Netns {
			fmt.Fprintf(t, "\nnamespace %s\n", f.Netns)
		}
		v.printForward(t, "", &f)
	}
}

func (v view) printJail(w io.Writer, s *jail.Status) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	state := s.State
	if v.colours { // it is the last in its line, so that tabwriter need not know its width
		state = fmt.Sprintf("\x1b[%sm%s\x1b[0m", stateColours[state], state)
	}
	fmt.Fprintf(t, "jail %s\t%s\n", s.Name, state)
	for _, m := range s.Missing {
		fmt.Fprintf(t, "  missing\t%s\n", m)
	}
	fmt.Fprintf(t, "  tunnel\t%s WireGuard, MTU %d\n", s.Backend, s.MTU)
	fmt.Fprintf(t, "  addresses\t%s\n", join(s.Addresses))
	fmt.Fprintf(t, "  name servers\t%s\n", join(s.DNS))
	for _, peer := range s.Peers {
		key := "peer " + s.Name + " " + peer.PublicKey
		fmt.Fprintf(t, "  peer\t%s at %s\n", peer.PublicKey, orNone(peer.Endpoint))
		fmt.Fprintf(t, "  \thandshake %s, %s received%s, %s sent%s\n", ago(peer.LatestHandshake),
			size(peer.RxBytes), v.rates.of(key+" rx", peer.RxBytes), size(peer.TxBytes), v.rates.of(key+" tx", peer.TxBytes))
	}
	if s.Port != nil {
		printPort(t, s.Port)
	}
	for _, r := range s.Repairs {
		fmt.Fprintf(t, "  keeper\t%s: %s\n", ago(&r.At), r.What)
	}
	for _, f := range s.Forwards {
		v.printForward(t, s.Name, &f)
	}
	for _, proc := range s.Processes {
		fmt.Fprintf(t, "  program\t%d %s\n", proc.PID, proc.Command)
	}
}

// printForward prints a forward, or a proxy, into the jail called name.
func (v view) printForward(w io.Writer, name string, f *jail.ForwardStatus) {
	what := fmt.Sprintf("%s/%s to %s (%s)", f.Listen, f.Proto, f.Target, how(f))
	switch {
	case f.Mode == jail.ProxyMode:
		what = fmt.Sprintf("proxy\t%s at %s", f.Proto, f.Listen)
	case f.Reverse:
		what = "reverse\t" + what
	default:
		what = "forward\t" + what
	}
	key := fmt.Sprintf("forward %s %s %s %d", name, f.Netns, f.ID, f.PID)
	in, out := int64(f.BytesIn), int64(f.BytesOut)
	rare := ""
	for _, c := range []struct {
		n    uint64
		what string
	}{{f.Errors, "dial errors"}, {f.Dropped, "datagrams dropped"}, {f.Evicted, "flows evicted"}} {
		if c.n > 0 {
			rare += fmt.Sprintf(", %d %s", c.n, c.what)
		}
	}
	packets := ""
	if f.PacketsIn+f.PacketsOut > 0 {
		packets = fmt.Sprintf(" (%d and %d packets by rules)", f.PacketsIn, f.PacketsOut)
	}
	fmt.Fprintf(w, "  %s, %d open of %d, %d refused%s, %s in%s, %s out%s%s\n", what, f.Active, f.Total, f.Refused, rare,
		size(in), v.rates.of(key+" in", in), size(out), v.rates.of(key+" out", out), packets)
	if f.Warning != "" {
		fmt.Fprintf(w, "  \t%s\n", f.Warning)
	}
}

// how names the mode of a forward, and what it tells services of their clients
// beyond the mode's default.
func how(f *jail.ForwardStatus) string {
	text := string(f.Mode)
	if f.Mode == jail.ModeRelay && f.Source == jail.SourceClient {
		text += ", source client"
	}
	if f.Proxy != "" {
		text += ", PROXY " + f.Proxy
	}
	return text
}

// rates remembers counters from one page to the next.
type rates struct {
	before, now map[string]int64
	at          time.Time
	elapsed     time.Duration
}

// begin begins a page.
func (r *rates) begin() {
	if r == nil {
		return
	}
	now := time.Now()
	if !r.at.IsZero() {
		r.elapsed = now.Sub(r.at)
	}
	r.before, r.now, r.at = r.now, map[string]int64{}, now
}

// of returns what to print behind a number of bytes: by how much it has grown
// a second. On the first page, and without rates, that is nothing.
func (r *rates) of(counter string, bytes int64) string {
	if r == nil {
		return ""
	}
	r.now[counter] = bytes
	before, known := r.before[counter]
	if !known || r.elapsed <= 0 {
		return ""
	}
	perSecond := float64(max(0, bytes-before)) / r.elapsed.Seconds() // below zero: it has begun anew
	return fmt.Sprintf(" (%s/s)", size(int64(perSecond+0.5)))
}

func join[T fmt.Stringer](list []T) string {
	var texts []string
	for _, v := range list {
		texts = append(texts, v.String())
	}
	return orNone(strings.Join(texts, ", "))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func ago(t *time.Time) string {
	if t == nil {
		return "none yet"
	}
	return time.Since(*t).Round(time.Second).String() + " ago"
}

// size prints a number of bytes with a binary prefix.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for ; v >= 1024 && unit < 4; unit++ {
		v /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[unit])
}
