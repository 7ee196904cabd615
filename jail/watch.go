package jail

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

const (
	watchEvery = 5 * time.Second
	// A session is renewed every 120 s while there is traffic; one that is
	// older by a few handshake retries has lost its peer.
	resolveAfter = 135 * time.Second
	resolveEvery = 30 * time.Second
)

// watch looks at the tunnel until ctx is done or the tunnel has ended. When a handshake is overdue
// although there is traffic it looks the endpoint's name up again on the host
// and moves the peer there; nothing else is touched.
func (k *keeper) watch(ctx context.Context) {
	peers := map[wgtypes.Key]*pulse{}
	for _, p := range k.state.Peers {
		if key, err := wgtypes.ParseKey(p.PublicKey); err == nil {
			peers[key] = &pulse{peerState: p, since: time.Now()}
		}
	}
	if readHealth(k.state.Name).Stale { // what a predecessor said
		k.tell(false)
	}
	stale := false
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.tunnel.ended():
			k.log.Error("the interface is gone")
			return
		case <-tick.C:
		}
		k.beat()
		dev, err := readDevice(k.ns, k.state.Name)
		if err != nil {
			continue // status says what is missing
		}
		now, overdue := time.Now(), false
		for _, p := range dev.Peers {
			if w := peers[p.PublicKey]; w != nil {
				k.beat()
				overdue = w.beat(p, now) || overdue
				k.resolveAgain(ctx, w, p, now)
			}
		}
		if overdue != stale {
			stale = overdue
			k.tell(stale)
		}
	}
}

// beat shows whoever supervises the keeper that it is not stuck.
func (k *keeper) beat() { os.Chtimes(keeperFile(k.state.Name), time.Time{}, time.Now()) }

// A pulse is what the keeper remembers about a peer.
type pulse struct {
	peerState
	since    time.Time // when the keeper began to look
	tx, rx   int64
	sent     time.Time // last time that something was sent
	heard    time.Time // last time that something came
	resolved time.Time // last time that the name was looked up
}

// beat takes a new reading and reports whether the peer is stale: traffic is
// pending and there has been no handshake for staleAfter.
func (w *pulse) beat(p wgtypes.Peer, now time.Time) bool {
	if p.TransmitBytes != w.tx {
		w.tx, w.sent = p.TransmitBytes, now
	}
	if p.ReceiveBytes != w.rx {
		w.rx, w.heard = p.ReceiveBytes, now
	}
	return w.pending(now) && now.Sub(w.last(p)) > staleAfter
}

// pending reports whether the peer was sent something lately and answered
// nothing. WireGuard retries handshakes for 90 s after the last packet.
func (w *pulse) pending(now time.Time) bool {
	return !w.sent.IsZero() && now.Sub(w.sent) < 90*time.Second && w.heard.Before(w.sent)
}

func (w *pulse) last(p wgtypes.Peer) time.Time {
	if p.LastHandshakeTime.After(w.since) {
		return p.LastHandshakeTime
	}
	return w.since
}

func (k *keeper) resolveAgain(ctx context.Context, w *pulse, p wgtypes.Peer, now time.Time) {
	if w.Host == "" || !w.pending(now) || now.Sub(w.last(p)) < resolveAfter || now.Sub(w.resolved) < resolveEvery {
		return
	}
	w.resolved = now
	if _, err := netip.ParseAddr(w.Host); err == nil {
		return // an address stays what it is
	}
	ctx, cancel := context.WithTimeout(ctx, resolveEvery/2)
	defer cancel()
	to, err := resolve(ctx, Endpoint{Host: w.Host, Port: w.Port})
	if err != nil {
		k.log.Warn("handshake overdue; endpoint not resolved", "endpoint", w.Host, "err", err)
		return
	}
	if p.Endpoint != nil && p.Endpoint.AddrPort() == to {
		return
	}
	err = setEndpoint(k.ns, k.state.Name, p.PublicKey, to)
	k.log.Info("handshake overdue; endpoint moved", "endpoint", w.Host, "from", p.Endpoint, "to", to, "err", err)
}

// health is what the keeper knows and a glance at the device does not show.
type health struct {
	Stale bool      `json:"stale"`
	Since time.Time `json:"since"`
}

func healthPath(name string) string { return filepath.Join(stateDir(name), "health.json") }

func (k *keeper) tell(stale bool) {
	k.log.Info("tunnel", "stale", stale)
	data, err := json.Marshal(health{stale, time.Now()})
	if err == nil {
		err = writeWhole(healthPath(k.state.Name), data, 0o600)
	}
	if err != nil {
		k.log.Error("write health", "err", err)
	}
}

// readHealth returns what the keeper said last; nothing is healthy.
func readHealth(name string) health {
	var h health
	if data, err := readOwned(healthPath(name)); err == nil {
		json.Unmarshal(data, &h)
	}
	return h
}
