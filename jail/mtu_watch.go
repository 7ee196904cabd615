package jail

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// An mtuWatch is what the keeper knows of the tunnel's path.
type mtuWatch struct {
	due     bool          // the path is new: begin from the top
	at      time.Duration // when it was looked at last
	running bool
}

// probed is how a probe ended.
type probed struct {
	*MTUReport
	err error
}

// checkMTU looks whether what the interface lets out gets through: on a new
// path, and now and then while something comes through the tunnel. It goes on
// in the background and ends in takeProbe.
func (w *watcher) checkMTU(ctx context.Context, now time.Duration) {
	if w.mtu.running || !w.mtu.due && now-w.mtu.at < w.tempo.verify {
		return
	}
	if w.mtu.due && w.health.MTU != 0 {
		w.setMTU(w.state.MTU)
	}
	w.mtu = mtuWatch{at: now, running: true}
	go func() {
		r, err := w.state.probeMTU(ctx, w.ns)
		w.probed <- probed{r, err}
	}()
}

// takeProbe lowers the MTU to what was found out.
func (w *watcher) takeProbe(p probed) {
	w.mtu.running = false
	if p.err != nil || !p.Narrow() {
		w.log.Debug("MTU probed", "err", p.err, "report", p.MTUReport)
		return
	}
	lower, what := p.Passes, fmt.Sprintf("the path loses packets of more than %d bytes", p.Passes)
	if p.Passes < p.Least {
		lower, what = p.Least, fmt.Sprintf("the path loses packets of %d bytes, which the jail's addresses need", p.Least)
	}
	if lower < p.MTU {
		w.setMTU(lower)
		what += fmt.Sprintf("; MTU lowered from %d to %d", p.MTU, lower)
	}
	w.note("%s", what)
}

// setMTU changes the MTU of the jail's interface. It is written down first, so
// that nobody takes it for damage.
func (w *watcher) setMTU(mtu int) {
	w.health.MTU = mtu
	if mtu >= w.state.MTU {
		w.health.MTU = 0
	}
	w.tell()
	if err := setLinkMTU(w.ns, w.state.Name, mtu); err != nil {
		w.log.Error("set the MTU", "mtu", mtu, "err", err)
	}
}

func setLinkMTU(ns *netnsx.Namespace, name string, mtu int) error {
	return withJail(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.LinkSetMTU(link, mtu)
	})
}
