package load

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Held are connections that are open, and idle.
type Held struct{ fds []int }

// Hold opens n connections, has one request answered on each, and leaves them
// open.
func Hold(t Target, n int) (*Held, error) {
	h := &Held{}
	done := make(chan error)
	go func() { done <- h.open(t, n) }() // a goroutine of its own, whose thread enter may take
	if err := <-done; err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Held) open(t Target, n int) error {
	if err := t.Enter.enter(); err != nil {
		return err
	}
	buf := make([]byte, len(response))
	for range n {
		fd, err := dial(unix.SOCK_STREAM, t.HTTP)
		if err != nil {
			return err
		}
		h.fds = append(h.fds, fd)
		if err := askOnce(fd, buf); err != nil {
			return fmt.Errorf("connection %d to %v: %w", len(h.fds), t.HTTP, err)
		}
	}
	return nil
}

// askOnce has one request answered on a socket that blocks.
func askOnce(fd int, buf []byte) error {
	if _, err := unix.Write(fd, request); err != nil {
		return os.NewSyscallError("write", err)
	}
	for have := 0; have < len(buf); {
		n, err := unix.Read(fd, buf[have:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		have += n
	}
	if string(buf) != string(response) {
		return fmt.Errorf("a wrong answer: %.60q", buf)
	}
	return nil
}

// Close closes them.
func (h *Held) Close() {
	for _, fd := range h.fds {
		unix.Close(fd)
	}
}

// FirstByte makes one connection and has one request answered.
func FirstByte(t Target) error {
	h, err := Hold(t, 1)
	if err == nil {
		h.Close()
	}
	return err
}
