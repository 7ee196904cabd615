package jail

import (
	"context"
	"net/netip"
	"os"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// A watcher is the keeper while it watches over the tunnel.
type watcher struct {
	*keeper
	peers  map[wgtypes.Key]*watchedPeer
	began  moment
	last   moment
	mtu    mtuWatch
	probed chan probed
}

// A watchedPeer is a peer of the jail and what the keeper knows of it.
type watchedPeer struct {
	*pulse
	*mender
	uplink uplink
}

// watch looks at the tunnel until ctx is done or the tunnel has ended. When a
// handshake is overdue although something was sent, it looks the endpoint's name
// up again on the host and moves the peer; when large packets get lost, it lowers
// the MTU. Nothing else is touched: connections in the jail live on.
func (w *watcher) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.tunnel.ended():
			w.log.Error("the interface is gone")
			return
		case p := <-w.probed:
			w.takeProbe(p)
		case <-time.After(w.rest()):
			w.beat()
			dev, err := readDevice(w.ns, w.state.Name)
			if err == nil { // else status says what is missing
				w.look(ctx, readClocks(), dev)
			}
		}
	}
}

func (k *keeper) newWatcher(now moment) *watcher {
	w := &watcher{keeper: k, peers: map[wgtypes.Key]*watchedPeer{}, began: now, last: now, probed: make(chan probed, 1)}
	for _, p := range k.state.Peers {
		key, err := wgtypes.ParseKey(p.PublicKey)
		if err != nil {
			continue
		}
		peer := &watchedPeer{pulse: newPulse(k.tempo, now.boot), mender: newMender(k.tempo, Endpoint{Host: p.Host, Port: p.Port})}
		peer.uplink, _ = uplinkTo(p.Endpoint.Addr())
		w.peers[key] = peer
	}
	k.health = readHealth(k.state.Name)
	w.mtu = mtuWatch{due: k.health.Held != 0, raised: now.boot} // what a predecessor has found out holds
	if k.health.Stale {
		k.health.Stale = false
		k.tell()
	}
	return w
}

// rest returns how long to wait until the next look. The first packets of a new
// tunnel are not long in coming, and then the MTU wants to be known.
func (w *watcher) rest() time.Duration {
	const minute = 12 // looks
	if w.mtu.at == 0 && w.last.boot-w.began.boot < minute*w.tempo.look {
		return w.tempo.look / 10
	}
	return w.tempo.look
}

// look takes a reading of every peer and does what it calls for.
func (w *watcher) look(ctx context.Context, now moment, dev *wgtypes.Device) {
	if slept := now.sleptSince(w.last); slept > w.tempo.look {
		w.note("the machine slept for %v", slept.Round(time.Second))
		w.pathChanged()
	}
	w.last = now
	stale, alive := false, false
	for _, p := range dev.Peers {
		peer := w.peers[p.PublicKey]
		if peer == nil {
			continue
		}
		w.beat()
		peer.read(now.boot, p)
		stale = stale || peer.isStale(now.boot)
		alive = alive || peer.heard == now.boot
		w.checkUplink(peer, p)
		w.mend(ctx, now.boot, peer, p)
	}
	if stale != w.health.Stale {
		w.health.Stale = stale
		if stale {
			w.note("no handshake for %v although something was sent", w.tempo.stale)
		} else {
			w.note("the tunnel answers again")
		}
	}
	if alive {
		w.checkMTU(ctx, now.boot)
	}
}

// beat shows whoever supervises the keeper that it is not stuck.
func (k *keeper) beat() { os.Chtimes(keeperFile(k.state.Name), time.Time{}, time.Now()) }

// pathChanged makes the keeper think again: what was so on the old path need not
// be on the new one. The server learns the host's new address from what it is
// sent, so that it need not wait for a program to send something.
func (w *watcher) pathChanged() {
	for _, peer := range w.peers {
		peer.hurry()
	}
	w.mtu.due = true
	w.prod()
}

// mend moves a peer that does not answer to another address.
func (w *watcher) mend(ctx context.Context, now time.Duration, peer *watchedPeer, p wgtypes.Peer) {
	if peer.mended(now, peer.heard) {
		w.note("the tunnel goes on at %v", p.Endpoint)
		w.mtu.due = true
		return
	}
	from := endpointOf(p)
	why := "handshake overdue"
	if from.IsValid() && !peer.routed(from.Addr()) {
		why = "no route to " + from.Addr().String()
	} else if !peer.isOverdue(now) {
		return
	}
	to, looked, err := peer.step(ctx, now, from)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		w.note("%s; cannot look up %s: %v", why, peer.at.Host, err)
	case to.IsValid():
		if err := setEndpoint(w.ns, w.state.Name, p.PublicKey, to); err != nil {
			w.note("%s; cannot move %s from %v to %v: %v", why, peer.at.Host, from, to, err)
			return
		}
		w.note("%s; moved %s from %v to %v", why, peer.at.Host, from, to)
		w.prod()
	case looked:
		w.note("%s; %s has no other address that the host has a route to", why, peer.at.Host)
	}
}

// prod sends something small through the tunnel. A peer that is where it is sent
// to answers, whether or not the one who is asked does.
func (w *watcher) prod() {
	for _, target := range w.state.echoTargets() {
		if e, err := openEcho(w.ns, w.state.Name, target); err == nil {
			e.send(echoSmall)
			e.close()
		}
	}
}

// An uplink is the way from the host to an endpoint.
type uplink struct {
	to   netip.Addr
	link int
	from string // the host's address
}

// checkUplink notices that the host has another way to the peer's endpoint.
func (w *watcher) checkUplink(peer *watchedPeer, p wgtypes.Peer) {
	before := peer.uplink
	now, ok := uplinkTo(endpointOf(p).Addr())
	if !ok {
		return // the way back is a change
	}
	peer.uplink = now
	if before.to == now.to && before != now {
		w.note("the host reaches %v from %v now", now.to, now.from)
		w.pathChanged()
	}
}

// uplinkTo returns the way to an endpoint, or false if there is none.
func uplinkTo(to netip.Addr) (uplink, bool) {
	if !to.IsValid() {
		return uplink{}, false
	}
	route, err := routeTo(to)
	if err != nil {
		return uplink{}, false
	}
	return uplink{to, route.LinkIndex, route.Src.String()}, true
}

// endpointOf is where a peer is, invalid if it has no endpoint.
func endpointOf(p wgtypes.Peer) netip.AddrPort {
	if p.Endpoint == nil {
		return netip.AddrPort{}
	}
	at := p.Endpoint.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
