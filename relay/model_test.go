package relay_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/wgjail/wgjail/relay"
)

var (
	modelSeed  = flag.Uint64("relay.seed", 0, "seed of TestRandomBehaviour; 0 takes the time")
	modelTime  = flag.Duration("relay.soak", 2*time.Second, "how long TestRandomBehaviour goes on")
	modelPause = flag.Duration("relay.pause", 0, "how long each lane of TestRandomBehaviour rests between two conversations")
)

// Two peers write, stall, half-close, close and reset as they like, and each
// sees what TCP promises of the other (peer.check); beside them datagrams come
// and go. Each time that all is quiet nothing is left open, and the relay has
// not grown (R27).
func TestRandomBehaviour(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("go test -run %s -relay.seed=%d -relay.soak=%v -relay.pause=%v", t.Name(), seed, *modelTime, *modelPause)
	s := newSoak(t, seed)
	const rounds = 4
	var first figures
	for round := range rounds {
		s.run(t, time.Now().Add(*modelTime/rounds))
		now := s.figures(t)
		t.Logf("round %d: %d conversations, %d flows; %v", round, s.fronts.total(), s.flows.total(), now)
		if round == 0 {
			first = now
		}
		now.mustNotExceed(t, first)
	}
}

// converse runs one conversation of two peers that do as they like.
func converse(t *testing.T, name string, rnd *rand.Rand, front *relay.Listener, back *net.TCPListener) {
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(front.Addr()))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	back.SetDeadline(time.Now().Add(patience))
	s, err := back.AcceptTCP()
	if err != nil {
		t.Errorf("%s: %v", name, err)
		c.Close()
		return
	}
	a, b := newPeer("client", c, rnd), newPeer("server", s, rnd)
	var g sync.WaitGroup
	for _, p := range []*peer{a, b} {
		g.Go(p.read)
		g.Go(func() { p.write(t) })
	}
	g.Wait()
	c.Close()
	s.Close()
	for _, err := range []error{a.check(b), b.check(a)} {
		if err != nil {
			t.Errorf("%s: %v\n%v\n%v", name, err, a, b)
		}
	}
}

// A peer is one end of a conversation: its plan, and what it saw.
type peer struct {
	name   string
	conn   *net.TCPConn
	stream byte   // which bytes it writes
	writes []int  // the sizes of its writes
	end    ending // what it does then
	slow   bool   // it stalls between reads
	rnd    *rand.Rand

	sent     int   // bytes that were taken from it
	writeErr error // why not all were
	got      []byte
	readErr  error // what came after that; nil is EOF
}

type ending int

const (
	halfClose    ending = iota // no more to say; reads to the end
	closeAll                   // gone, and does not wait for what the other says
	resetDrained               // resets when all it wrote has arrived
	resetNow                   // resets with bytes on their way
	endings
)

func (e ending) String() string {
	return [...]string{"half-close", "close", "reset when all has arrived", "reset at once"}[e]
}

func newPeer(name string, c *net.TCPConn, rnd *rand.Rand) *peer {
	p := &peer{name: name, conn: c, stream: name[0], end: ending(rnd.IntN(int(endings))), slow: rnd.IntN(4) == 0, rnd: rand.New(rand.NewPCG(rnd.Uint64(), 0))}
	if rnd.IntN(2) == 0 {
		p.end = halfClose
	}
	for range rnd.IntN(6) {
		p.writes = append(p.writes, 1+rnd.IntN(1<<rnd.IntN(20)))
	}
	c.SetDeadline(time.Now().Add(patience))
	return p
}

func (p *peer) String() string {
	return fmt.Sprintf("%s: writes %v, then %v; sent %d (%v), got %d (%v)", p.name, p.writes, p.end, p.sent, p.writeErr, len(p.got), p.readErr)
}

// content returns n bytes of a stream from offset on.
func content(stream byte, offset, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		at := offset + i
		b[i] = stream ^ byte(at) ^ byte(at>>8) ^ byte(at>>16)*31
	}
	return b
}

func (p *peer) write(t *testing.T) {
	for _, size := range p.writes {
		n, err := p.conn.Write(content(p.stream, p.sent, size))
		p.sent += n
		if err != nil {
			p.writeErr = err
			break
		}
		if p.slow {
			time.Sleep(time.Duration(size % 1000 * int(time.Microsecond))) // behaviour, not waiting
		}
	}
	switch p.end {
	case halfClose:
		if err := p.conn.CloseWrite(); p.writeErr == nil {
			p.writeErr = err
		}
	case closeAll:
		p.conn.Close()
	case resetDrained:
		for end := time.Now().Add(patience); unsent(t, p.conn) > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		fallthrough
	case resetNow:
		p.conn.SetLinger(0)
		p.conn.Close()
	}
}

func (p *peer) read() {
	buf := make([]byte, 1+p.rnd.IntN(1<<(6+p.rnd.IntN(12))))
	for stalls := 0; ; stalls++ {
		n, err := p.conn.Read(buf)
		p.got = append(p.got, buf[:n]...)
		if err != nil {
			if err.Error() != "EOF" {
				p.readErr = err
			}
			return
		}
		if p.slow && stalls < 20 {
			time.Sleep(2 * time.Millisecond) // behaviour, not waiting
		}
	}
}

// check compares what p saw with what the other did.
func (p *peer) check(other *peer) error {
	if len(p.got) > other.sent {
		return fmt.Errorf("the %s got more than was sent", p.name)
	}
	if !bytes.Equal(p.got, content(other.stream, 0, len(p.got))) {
		return fmt.Errorf("the %s got other bytes than were sent", p.name)
	}
	if errors.Is(p.readErr, net.ErrClosed) {
		return nil // it went away itself and does not know the end
	}
	var timeout net.Error
	if errors.As(p.readErr, &timeout) && timeout.Timeout() {
		return fmt.Errorf("the %s waits for ever", p.name)
	}
	all := len(p.got) == other.sent
	eof := p.readErr == nil
	// The kernel reports a reset once: to a write, if one comes first, and the
	// reader sees EOF then.
	told := p.writeErr != nil
	switch other.end {
	case halfClose:
		if p.end == halfClose && (!eof || !all) {
			return fmt.Errorf("the %s did not get everything and EOF", p.name)
		}
		if eof && !all && !told {
			return fmt.Errorf("the %s got EOF too early", p.name)
		}
	case closeAll: // EOF after everything, or a reset if something was not read
		if eof && !all && !told {
			return fmt.Errorf("the %s got EOF too early", p.name)
		}
	case resetDrained:
		if other.writeErr == nil && other.readErr == nil && !all {
			return fmt.Errorf("the %s did not get what was sent before the reset", p.name)
		}
		fallthrough
	case resetNow:
		if eof && !told {
			return fmt.Errorf("the %s got EOF instead of a reset", p.name)
		}
	}
	return nil
}
