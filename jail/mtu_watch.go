package jail

import (
	"context"
	"fmt"
	"time"
)

// An mtuWatch is what the keeper knows of the tunnel's path.
type mtuWatch struct {
	due     bool          // the path is unknown: begin from the top
	at      time.Duration // when it was looked at last; 0: never
	raised  time.Duration // when more than a lowered MTU was tried last
	before  int           // the lowered MTU while more is tried, in bytes; else 0
	running bool
}

// probed is how a probe ended.
type probed struct {
	*MTUReport
	err error
}

// checkMTU looks whether what the interface lets out gets through: on a new
// path, and now and then while something comes through the tunnel. Now and then
// it tries more than an MTU that was lowered. It goes on in the background and
// ends in takeProbe.
func (w *watcher) checkMTU(ctx context.Context, now time.Duration) {
	raise := w.health.MTU != 0 && now-w.mtu.raised >= w.tempo.raise
	if w.mtu.running || !w.mtu.due && !raise && now-w.mtu.at < w.tempo.verify {
		return
	}
	next := mtuWatch{at: now, raised: w.mtu.raised, running: true}
	switch {
	case w.mtu.due:
		next.raised = now
		w.setMTU(w.state.MTU, w.state.heldAtFirst())
	case raise:
		next.raised, next.before = now, w.health.MTU
		w.setMTU(w.state.MTU, next.before)
	}
	w.mtu = next
	go func() {
		r, err := w.state.probeMTU(ctx, w.ns)
		w.probed <- probed{r, err}
	}()
}

// takeProbe sets the MTU to what was found out.
func (w *watcher) takeProbe(p probed) {
	before := w.mtu.before
	w.mtu.running, w.mtu.before = false, 0
	w.log.Debug("MTU probed", "err", p.err, "report", p.MTUReport)
	switch {
	case (p.err != nil || p.Passes == 0) && before != 0:
		w.setMTU(before, 0)
	case p.err != nil || p.Passes == 0: // as unknown as it was
	default:
		w.settleMTU(p.MTUReport, before)
	}
}

// settleMTU takes what passes for the MTU. It was before if more was tried.
func (w *watcher) settleMTU(r *MTUReport, before int) {
	now := r.MTU
	if before == 0 {
		before = r.MTU
	}
	what := fmt.Sprintf("the path lets packets of %d bytes through", r.Passes)
	if r.Narrow() {
		now, what = r.Passes, fmt.Sprintf("the path loses packets of more than %d bytes", r.Passes)
	}
	if r.Passes < r.Least {
		now, what = r.Least, fmt.Sprintf("the path loses packets of %d bytes, which the jail's addresses need", r.Least)
	}
	if now != r.MTU || w.health.Held != 0 {
		w.setMTU(now, 0)
	}
	switch {
	case now < before:
		w.mtu.raised = w.mtu.at
		w.note("%s; MTU lowered from %d to %d", what, before, now)
	case now > before:
		w.note("%s; MTU raised from %d to %d", what, before, now)
	case r.Passes < r.Least:
		w.note("%s", what)
	}
}

// setMTU changes the MTU of the jail's interface, and what packets are held to
// or 0. It is written down first, so that nobody takes it for damage.
func (w *watcher) setMTU(mtu, held int) {
	w.health.MTU, w.health.Held = mtu, held
	if mtu >= w.state.MTU {
		w.health.MTU = 0
	}
	w.tell()
	if err := shapePackets(w.ns, w.state, mtu, held); err != nil {
		w.log.Error("set the MTU", "mtu", mtu, "held to", held, "err", err)
	}
}
