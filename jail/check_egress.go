package jail

import (
	"context"
	"net/netip"
	"strings"
)

// probeEgress compares whom a page sees when it is fetched from inside and from
// the host.
func (c *checker) probeEgress(ctx context.Context) outcome {
	switch {
	case c.opts.Egress == "":
		return skipped("give --egress URL, of a page that says whom it sees")
	case c.refused != nil:
		return failed(c.again(), "no program can be started: %v", c.refused)
	}
	e := errand{c.opts.Egress, c.opts.Patience}
	page, err := c.visitor.fetch(e)
	if err != nil {
		return failed("see whether the URL is right, and what the rows above say", "fetched from inside: %v", err)
	}
	inside := firstAddress(page)
	if !inside.IsValid() {
		return failed("give the URL of a page that says whom it sees", "there is no address in what %s answers", c.opts.Egress)
	}
	page, err = fetchPage(ctx, e)
	if err != nil {
		return passed("%s seen from outside; the host itself does not reach the page", inside)
	}
	outside := firstAddress(page)
	if outside == inside {
		return failed("the provider does not hide the host: is the tunnel's other end on this network?",
			"%s sees %s from inside and from the host", c.opts.Egress, inside)
	}
	return passed("%s is seen from outside, and the host is %s", inside, outside)
}

// firstAddress returns the first IP address in a text.
func firstAddress(text string) netip.Addr {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("0123456789abcdefABCDEF.:", r)
	}) {
		if a, err := netip.ParseAddr(strings.Trim(word, ".")); err == nil {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}
