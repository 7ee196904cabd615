package jail

import (
	"context"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/veth"
)

// isPair reports whether the link is the jail's end of the pair that forwards in
// veth mode go through.
func (c *checker) isPair(l netlink.Link) bool {
	if c.pair == 0 {
		h, err := hostHandle()
		if err != nil {
			return false
		}
		defer h.Close()
		c.pair = -1
		if outer, err := h.LinkByName(veth.HostLink(c.Name)); err == nil && outer.Type() == "veth" {
			c.pair = outer.Attrs().ParentIndex // of its peer
		}
	}
	return l.Type() == "veth" && l.Attrs().Name == veth.JailLink() && l.Attrs().Index == c.pair
}

// butPair says that there is a pair, if there is one.
func (c *checker) butPair() string {
	if c.pair > 0 {
		return " but " + veth.JailLink() + ", for forwards in veth mode"
	}
	return ""
}

// pairIndex returns the number of the jail's end of the pair, or 0.
func (c *checker) pairIndex(h *netlink.Handle) int {
	if l, err := h.LinkByName(veth.JailLink()); err == nil && c.isPair(l) {
		return l.Attrs().Index
	}
	return 0
}

// probeRedirections looks at the rules of forwards in veth mode.
func (c *checker) probeRedirections(context.Context) outcome {
	report, err := c.inspectRules()
	switch {
	case err != nil:
		return unknown(err)
	case report == nil:
		return skipped("no forward is in veth mode")
	case len(report.Missing) > 0:
		return failed(c.again()+"; the forward itself does, too, in a moment", "%s", report.Missing[0])
	}
	return passed("the rules of %d on host and jail are as they were made: only answers leave that way", len(report.Forwards))
}
