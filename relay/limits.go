package relay

import (
	"time"

	"golang.org/x/sys/unix"
)

// Limits bounds what clients may use up. Each zero value is a default.
type Limits struct {
	MaxConns          int           // TCP connections of the whole relay; zero is no limit. Clients in excess are reset and counted as refused
	MaxConnsPerClient int           // TCP connections per client address, likewise
	MaxFlows          int           // UDP flows of the whole relay; zero is 4096, or less if descriptors are few. The idlest makes room
	DialTimeout       time.Duration // for each target to accept; zero is 5 s
	IdleTimeout       time.Duration // ends a TCP connection on which nothing moved either way; zero is never
	FlowTimeout       time.Duration // ends a UDP flow on which nothing moved either way; zero is 120 s (RFC 4787, REQ-5)
	DrainTimeout      time.Duration // how long connections may go on when Serve's context is done; zero is 10 s, negative is not at all
}

func (l Limits) dialTimeout() time.Duration { return orDefault(l.DialTimeout, 5*time.Second) }
func (l Limits) flowTimeout() time.Duration { return orDefault(l.FlowTimeout, 120*time.Second) }

// maxFlows leaves most descriptors to TCP.
func (l Limits) maxFlows() int {
	if l.MaxFlows > 0 {
		return l.MaxFlows
	}
	const most = 4096
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) != nil {
		return most
	}
	return int(min(most, max(1, files.Cur/4)))
}

func (l Limits) drainTimeout() time.Duration {
	return max(0, orDefault(l.DrainTimeout, 10*time.Second))
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}
