package relay

import (
	"time"

	"golang.org/x/sys/unix"
)

type udpLoop struct{ w *worker }

func udpOptions(family int) []option { _ = unix.AF_INET; return nil }

func (u *udpLoop) init(w *worker)                               { u.w = w }
func (u *udpLoop) event(slot uint32, gen uint32, events uint32) {}
func (u *udpLoop) receive(p *port)                              {}
func (u *udpLoop) detach(p *port)                               {}
func (u *udpLoop) close()                                       {}
func (u *udpLoop) nextTimer() time.Duration                     { return -1 }
func (u *udpLoop) expire(now time.Duration)                     {}
