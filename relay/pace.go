package relay

// A manner is how a worker waits for events, which depends on what they were
// lately (wait.go).
type manner uint8

const (
	forAnswers manner = iota // few connections, on each of which question and answer take turns
	forMany                  // many connections, or messages in a row
	forBulk                  // a stream
)

// A pace finds out whether a worker does well to hurry. Where a few clients
// wait for an answer each, what they get depends on how soon each message is
// passed on. Where many do, or a message is followed by more of them, haste
// only has each travel alone: every one wakes its receiver, and costs it and
// the relay a system call that one for several would have done.
//
// It looks at windows of some events, and so follows a change within as many.
type pace struct {
	manner  manner
	id      uint8 // of the window
	events  int   // in it
	conns   int   // that had one of them, and were there before the window
	follows int   // events of an end that also had its connection's last one
	rows    int   // windows for which messages in a row are remembered
}

const (
	paceWindow = 64
	// fewConns is how many connections are worth hurrying for. On two
	// processors 8 are, and 50 are not.
	fewConns = 16
	// rowsWindows is how long messages in a row are remembered: once several
	// travel together there are none to be seen.
	rowsWindows = 32
)

// note takes down an event of one end of c.
func (p *pace) note(c *conn, side uint8) {
	if c.window != p.id {
		c.window = p.id
		p.conns++
	}
	if c.end[side].is(latest) {
		p.follows++
	} else {
		c.end[side].set(latest)
		c.end[1-side].clear(latest)
	}
	if p.events++; p.events == paceWindow {
		p.next()
	}
}

// next judges the window and begins another.
func (p *pace) next() {
	p.rows = max(0, p.rows-1)
	if 4*p.follows > paceWindow {
		p.rows = rowsWindows
	}
	p.manner = forAnswers
	if p.conns > fewConns || p.rows > 0 {
		p.manner = forMany
	}
	p.events, p.conns, p.follows = 0, 0, 0
	p.id++
}

// begin has c not count in the window it begins in: short connections come one
// after the other, and are not as many at a time.
func (p *pace) begin(c *conn) { c.window = p.id }
