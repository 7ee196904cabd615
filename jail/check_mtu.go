package jail

import (
	"context"
	"errors"
	"fmt"
)

// probeMTUPath wants the largest packets that programs can send to get through
// the tunnel, whole.
func (c *checker) probeMTUPath(ctx context.Context) outcome {
	if c.silent {
		return skipped("the tunnel has no handshake to send through")
	}
	// A size counts as lost after all its tries. Less patience would take a slow
	// answer for none.
	ctx, cancel := context.WithTimeout(ctx, max(c.opts.Patience, (echoTries+1)*echoWait))
	defer cancel()
	r, err := c.probeMTU(ctx, c.ns)
	switch {
	case r == nil || err != nil && !errors.Is(err, context.DeadlineExceeded):
		return unknown(err)
	case r.Passes == 0 && readHealth(c.Name).Held != 0:
		return skipped("nobody at the other end answers to echo requests: packets are held to %d bytes, unless the configuration has a line MTU = …", safeMTU)
	case r.Passes == 0:
		return skipped("nobody at the other end answers to echo requests")
	case r.Passes < r.Least:
		return failed("use another network: no MTU that a jail can have is small enough for this path",
			"packets of %d bytes, the least that must pass, are lost on the way", r.Least)
	case r.Narrow():
		return failed(fmt.Sprintf("put MTU = %d into the configuration, then wgjail down %s and up again", r.Passes, c.Name),
			"packets of %d bytes are lost on the way; those of %d are not", r.MTU, r.Passes)
	}
	return passed("packets of %d bytes, the most that there are, come back from %s", r.MTU, r.Target)
}
