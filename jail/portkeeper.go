package jail

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/wgjail/wgjail/internal/dialx"
	"github.com/wgjail/wgjail/internal/portmap"
)

// A portKeeper is the part of the keeper that has a port of the provider.
//
//	        ┌─ ask: UDP, then TCP, the same port ◄──────────────┐
//	gateway │                                                   │ half of the lifetime,
//	        └─ granted: rules ─► files ─► --on-port command ────┘ or after a failure sooner
type portKeeper struct {
	*keeper
	client  *portmap.Client
	sockets *socketMaker
	have    grant
	until   time.Time // when it expires
	last    uint16    // the port that there was; 0: none, or it cannot be had
	failed  int       // how often in a row, without a port
	told    chan uint16
	saved   savedPort // as it is in its file
}

// A grant is a port of the provider.
type grant struct {
	internal uint16 // as it was asked for: 0 leaves it to the gateway
	local    uint16 // where it leads to
	port     uint16 // 0: none
}

const (
	// portLifetime is what is asked for. ProtonVPN grants no more, and a port
	// that nobody uses any more is soon free again.
	portLifetime = 60 * time.Second
	// askTimeout is how long the gateway may take, in all.
	askTimeout = 8 * time.Second
	maxRetry   = 30 * time.Second
)

// keepPort has a port of the provider, if one is wanted, until the function that
// it returns is called, which gives it back.
func (k *keeper) keepPort(ctx context.Context) (end func()) {
	want := k.state.Port
	if want == nil {
		return func() {}
	}
	sockets, err := newSocketMaker(k.ns)
	if err != nil {
		k.log.Error("provider port", "err", err)
		return func() {}
	}
	p := &portKeeper{
		keeper: k, sockets: sockets, told: make(chan uint16, 1),
		client: &portmap.Client{
			Protocol: want.Protocol, Gateway: want.Gateway,
			Dial: (&dialx.Dialer{Socket: sockets.socket}).Dial,
		},
		saved: savedPort{ProviderPort: ProviderPort{Protocol: want.Protocol, Gateway: want.Gateway}},
	}
	p.resume()
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { p.run(ctx) })
	all.Go(func() { p.tellAll(ctx) })
	return func() {
		cancel()
		all.Wait()
	}
}

// resume goes on with the port of a predecessor that was killed.
func (p *portKeeper) resume() {
	rand.Read(p.saved.Nonce[:])
	before := readPort(p.state.Name)
	if before == nil {
		p.client.Nonce = p.saved.Nonce
		return
	}
	p.client.Nonce = before.Nonce
	p.saved, p.last = *before, before.Port
	if before.Port != 0 && time.Now().Before(before.Expires) {
		p.have, p.until = grant{before.Internal, before.LocalPort, before.Port}, before.Expires
		p.client.Protocol = before.Protocol
	}
}

func (p *portKeeper) run(ctx context.Context) {
	defer p.sockets.close()
	for ctx.Err() == nil {
		g, lifetime, err := p.ask(ctx)
		if ctx.Err() != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(p.settle(g, lifetime, err)):
		}
	}
	p.giveBack()
}

// ask asks for the port that there is, or for a new one.
func (p *portKeeper) ask(ctx context.Context) (grant, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	g, lifetime, err := p.askEither(ctx)
	// Programs tell others the port that they listen at, so it should be that.
	for tries := 0; tries < 3 && err == nil && g != p.have && g.port != g.local; tries++ {
		p.release(ctx, g.internal)
		g, lifetime, err = p.both(ctx, g.port, g.port)
	}
	return g, lifetime, err
}

func (p *portKeeper) askEither(ctx context.Context) (grant, time.Duration, error) {
	if p.have.port != 0 {
		return p.both(ctx, p.have.internal, p.have.port)
	}
	return p.askAnew(ctx)
}

// askAnew asks for any port. ProtonVPN leads a port of its choice to the same
// one here, and is asked for internal port 0. To other gateways that is no
// port: they are asked for a mapping from and to the same port, which they can
// give unless another client has it: the one that there was, if there was one.
func (p *portKeeper) askAnew(ctx context.Context) (grant, time.Duration, error) {
	if p.client.Protocol == portmap.NATPMP {
		g, lifetime, err := p.both(ctx, 0, 1)
		var refused *portmap.Refusal
		switch {
		case errors.Is(err, portmap.ErrVersion):
			p.client.Protocol = portmap.PCP
		case !errors.As(err, &refused):
			return g, lifetime, err
		}
	}
	first := p.last
	if first == 0 {
		first = 49152 + uint16(mathrand.N(65536-49152)) // RFC 6335: for anyone
	}
	g, lifetime, err := p.both(ctx, first, first)
	if unanswered := (*net.OpError)(nil); err != nil && ctx.Err() == nil && !errors.As(err, &unanswered) {
		p.last = 0 // it cannot be had: another one next time
	}
	return g, lifetime, err
}

// both asks for the same port for UDP and TCP.
func (p *portKeeper) both(ctx context.Context, internal, external uint16) (grant, time.Duration, error) {
	udp, err := p.client.Map(ctx, "udp", internal, external, portLifetime)
	if err != nil {
		return grant{}, 0, err
	}
	tcp, err := p.client.Map(ctx, "tcp", internal, udp.External, portLifetime)
	if err == nil && udp.External != tcp.External {
		err = fmt.Errorf("the gateway gives port %d for UDP and %d for TCP", udp.External, tcp.External)
	}
	if err == nil && (udp.External == 0 || min(udp.Lifetime, tcp.Lifetime) <= 0) {
		err = errors.New("the gateway grants a port that is none")
	}
	if err != nil {
		p.release(ctx, internal)
		return grant{}, 0, err
	}
	g := grant{internal: internal, local: internal, port: udp.External}
	if internal == 0 {
		g.local = g.port
	}
	return g, min(udp.Lifetime, tcp.Lifetime), nil
}

// release gives mappings of an internal port back. They would expire.
func (p *portKeeper) release(ctx context.Context, internal uint16) {
	for _, network := range []string{"udp", "tcp"} {
		if _, err := p.client.Map(ctx, network, internal, 0, 0); err != nil {
			p.log.Debug("give a provider port back", "err", err)
		}
	}
}

// giveBack is the end.
func (p *portKeeper) giveBack() {
	if p.have.port != 0 {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		p.release(ctx, p.have.internal)
	}
}

// settle has everything know the answer, and returns when to ask again.
func (p *portKeeper) settle(g grant, lifetime time.Duration, err error) time.Duration {
	now := time.Now()
	if err != nil {
		if p.saved.Error != err.Error() {
			p.log.Warn("provider port", "err", err)
		}
		p.saved.Error = err.Error()
		if left := p.until.Sub(now); p.have.port != 0 && left > 0 {
			p.apply()
			return max(left/2, time.Second/2)
		}
		p.have = grant{}
		p.apply()
		p.failed++
		return min(time.Second<<min(p.failed-1, 10), maxRetry)
	}
	p.failed, p.saved.Error = 0, ""
	p.have, p.until, p.last = g, now.Add(lifetime), g.port
	changed := g.port != p.saved.Told
	p.saved.Told = g.port
	p.apply()
	if changed {
		p.log.Info("provider port", "port", g.port, "local", g.local, "protocol", string(p.client.Protocol))
		p.tell(g.port)
	}
	return max(lifetime/2, time.Second/2)
}

// apply makes rules and files those of the port that there is. The rules are
// looked at each time: somebody may have put the old ones back.
func (p *portKeeper) apply() {
	name, s := p.state.Name, &p.saved
	if s.LocalPort != p.have.local {
		s.Opening = &p.have.local
		p.note(s.write(name))
	}
	open := p.state.openPort(p.have.local)
	if checkRules(p.ns, p.state, open, inputChain) != nil {
		p.note(applyRules(p.ns, p.state, open))
	}
	changed := s.Port != p.have.port
	s.Protocol, s.Port, s.LocalPort, s.Opening = p.client.Protocol, p.have.port, p.have.local, nil
	s.Internal, s.Expires = p.have.internal, time.Time{}
	if p.have.port != 0 {
		s.Expires = p.until.UTC().Truncate(time.Second)
	}
	p.note(s.write(name))
	if changed {
		p.note(writePortFile(name, p.have.port))
	}
}

func (p *portKeeper) note(err error) {
	if err != nil {
		p.log.Error("provider port", "err", err)
	}
}

// tell has the command run for the port. Of several ports the last one counts.
func (p *portKeeper) tell(port uint16) {
	select {
	case <-p.told:
	default:
	}
	p.told <- port
}

// tellAll runs the command for each new port, one at a time, as any program in
// the jail: it is for the program that listens there.
func (p *portKeeper) tellAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case port := <-p.told:
			if p.state.Port.OnPort == "" {
				continue
			}
			cmd := Self("exec", p.state.Name, "--", "sh", "-c", p.state.Port.OnPort)
			cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
			err := cmd.Start()
			if err == nil {
				stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
				err = cmd.Wait()
				stop()
			}
			if err != nil && ctx.Err() == nil {
				p.log.Warn("on-port command", "port", port, "err", err)
			}
		}
	}
}
