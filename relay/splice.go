package relay

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is what one splice may carry. Beyond pipe-user-pages-soft an
	// unprivileged process gets less, which works as well.
	pipeSize = 1 << 20
	// bulkLeast is what a splice must carry to be worth two system calls and
	// the juggling with pages.
	bulkLeast = 16 << 10

	maxFreePipes  = 4
	maxFreeBlocks = 16
)

// spliceOnce is copyOnce for a direction in bulk: pages move from socket to
// socket through a pipe and are not copied.
func (w *worker) spliceOnce(c *conn, side uint8) int {
	from, to := &c.end[side], &c.end[1-side]
	p := w.pool.takePipe()
	if p == nil {
		from.full = 0 // no descriptors, no pipe
		return 0
	}
	n, e := sysSplice(from.fd, p.w, pipeSize)
	if e != 0 || n == 0 {
		w.pool.givePipe(p)
		if e == 0 || e == unix.EINVAL {
			from.full = 0 // the end, or a socket that cannot: reading tells
		} else {
			w.readFailed(c, from, e)
		}
		return 0
	}
	if n >= bulkLeast {
		from.full = min(from.full+1, bulkMost)
	} else {
		from.full-- // it takes some to leave bulk again: short reads happen
	}
	w.bulk = true
	w.moved(c, side, n)
	to.out = w.pool.keepPipe(p, n)
	w.flush(c, 1-side)
	return n
}

// A pipe carries spliced bytes. It is empty while it is in the pool.
type pipe struct{ r, w int32 }

func newPipe() *pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	for size := pipeSize; size > 64<<10; size /= 4 {
		if _, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, size); err == nil {
			break
		}
	}
	return &pipe{int32(fds[0]), int32(fds[1])}
}

func (p *pipe) close() {
	sysClose(p.r)
	sysClose(p.w)
}

// A stash holds bytes that were read from one end and that the other has not
// taken: a block of memory, or a pipe.
type stash struct {
	block  []byte // its bytes at off and after are left
	off    int
	pipe   *pipe
	inPipe int
}

func (s *stash) left() int {
	if s.pipe != nil {
		return s.inPipe
	}
	return len(s.block) - s.off
}

func (s *stash) writeTo(fd int32) (int, syscall.Errno) {
	if s.pipe != nil {
		return sysSplice(s.pipe.r, fd, s.inPipe)
	}
	return sysSend(fd, s.block[s.off:], unix.MSG_NOSIGNAL)
}

func (s *stash) advance(n int) {
	if s.pipe != nil {
		s.inPipe -= n
	} else {
		s.off += n
	}
}

// A pool keeps a few pipes, blocks and stashes of the worker for the next
// direction that needs one. A connection holds one only while bytes wait in it.
type pool struct {
	pipes   []*pipe
	blocks  [][]byte
	stashes []*stash
}

func (p *pool) takeStash() *stash {
	if n := len(p.stashes); n > 0 {
		s := p.stashes[n-1]
		p.stashes = p.stashes[:n-1]
		return s
	}
	return new(stash)
}

// keep copies b, at most bufSize bytes.
func (p *pool) keep(b []byte) *stash {
	s := p.takeStash()
	if n := len(p.blocks); n > 0 {
		s.block = p.blocks[n-1]
		p.blocks = p.blocks[:n-1]
	} else {
		s.block = make([]byte, bufSize)
	}
	s.block = s.block[:copy(s.block[:bufSize], b)]
	return s
}

func (p *pool) keepPipe(pi *pipe, n int) *stash {
	s := p.takeStash()
	s.pipe, s.inPipe = pi, n
	return s
}

// drop takes s back. A pipe that is not empty is closed with what is in it.
func (p *pool) drop(s *stash) {
	switch {
	case s.pipe != nil && s.inPipe == 0:
		p.givePipe(s.pipe)
	case s.pipe != nil:
		s.pipe.close()
	case len(p.blocks) < maxFreeBlocks:
		p.blocks = append(p.blocks, s.block)
	}
	*s = stash{}
	if len(p.stashes) < maxFreeBlocks {
		p.stashes = append(p.stashes, s)
	}
}

func (p *pool) takePipe() *pipe {
	if n := len(p.pipes); n > 0 {
		pi := p.pipes[n-1]
		p.pipes = p.pipes[:n-1]
		return pi
	}
	return newPipe()
}

func (p *pool) givePipe(pi *pipe) {
	if len(p.pipes) < maxFreePipes {
		p.pipes = append(p.pipes, pi)
	} else {
		pi.close()
	}
}

// close gives the pipes back to the kernel.
func (p *pool) close() {
	for _, pi := range p.pipes {
		pi.close()
	}
	p.pipes = nil
}
