package resolver

import (
	"net/netip"
	"sync"
	"time"
)

const (
	maxTTL      = 5 * time.Minute // whatever servers say
	negativeTTL = 5 * time.Second // for what does not exist
	maxCached   = 1000            // names
)

// A cache remembers answers for as long as the servers say. It is small: when
// it is full, it forgets what is over, else everything.
type cache struct {
	mu sync.Mutex
	m  map[string]cached
}

type cached struct {
	addrs []netip.Addr
	err   error
	until time.Time
}

func (c *cache) get(name string, now time.Time) (addrs []netip.Addr, err error, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.m[name]
	if !ok || !now.Before(e.until) {
		return nil, nil, false
	}
	return e.addrs, e.err, true
}

func (c *cache) put(name string, a answer, now time.Time) {
	ttl := min(a.ttl, maxTTL)
	if ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.m) >= maxCached {
		c.tidy(now)
	}
	if c.m == nil {
		c.m = make(map[string]cached)
	}
	c.m[name] = cached{a.addrs, a.err, now.Add(ttl)}
}

func (c *cache) tidy(now time.Time) {
	for name, e := range c.m {
		if !now.Before(e.until) {
			delete(c.m, name)
		}
	}
	if len(c.m) >= maxCached {
		c.m = nil
	}
}
