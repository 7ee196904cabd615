package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A fake is a name server. Its reply may be changed before it is sent.
type fake struct {
	addr  netip.AddrPort
	mu    sync.Mutex
	asked []string // "udp A x.test"
	// reply makes of a query, over this network, what is sent: each element a
	// message. The message it gets answers the query with NXDOMAIN.
	reply func(network string, m *dnsmessage.Message) [][]byte
}

func newFake(t *testing.T, reply func(network string, m *dnsmessage.Message) [][]byte) *fake {
	t.Helper()
	f := &fake{reply: reply}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); c.Close() })
	f.addr = l.Addr().(*net.TCPAddr).AddrPort()
	go f.datagrams(c)
	go func() {
		for {
			s, err := l.Accept()
			if err != nil {
				return
			}
			go f.stream(s)
		}
	}()
	return f
}

func (f *fake) answer(network string, query []byte) [][]byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil {
		return nil
	}
	q := m.Questions[0]
	f.mu.Lock()
	f.asked = append(f.asked, fmt.Sprintf("%s %s %s", network, strings.TrimPrefix(q.Type.String(), "Type"), strings.TrimSuffix(q.Name.String(), ".")))
	f.mu.Unlock()
	m.Response, m.RCode, m.Additionals = true, dnsmessage.RCodeNameError, nil
	return f.reply(network, &m)
}

func (f *fake) datagrams(c net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		for _, m := range f.answer("udp", buf[:n]) {
			c.WriteTo(m, from)
		}
	}
}

func (f *fake) stream(c net.Conn) {
	defer c.Close()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return
	}
	for _, m := range f.answer("tcp", query) {
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	}
}

func (f *fake) queries() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := slices.Clone(f.asked)
	slices.Sort(list)
	return list
}

func packed(m *dnsmessage.Message) [][]byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return [][]byte{b}
}

// with adds an answer of the type that is asked for, if there is one.
func with(m *dnsmessage.Message, ttl uint32, addrs ...string) *dnsmessage.Message {
	q := m.Questions[0]
	m.RCode = dnsmessage.RCodeSuccess
	for _, s := range addrs {
		a := netip.MustParseAddr(s)
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return m
}

func direct(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, server.String())
}

func resolverFor(servers ...*fake) *Resolver {
	r := &Resolver{Dial: direct, Timeout: 5 * time.Second}
	for _, s := range servers {
		r.Servers = append(r.Servers, s.addr)
	}
	return r
}

// want looks name up and wants these addresses.
func want(t *testing.T, r *Resolver, name, addrs string) {
	t.Helper()
	list, err := r.Lookup(t.Context(), name)
	var got []string
	for _, a := range list {
		got = append(got, a.String())
	}
	if err != nil || strings.Join(got, " ") != addrs {
		t.Errorf("%s: %v, %v; want %s", name, list, err, addrs)
	}
}

func TestLookup(t *testing.T) {
	f := newFake(t, func(network string, m *dnsmessage.Message) [][]byte {
		switch name := m.Questions[0].Name.String(); name {
		case "both.test.":
			return packed(with(m, 60, "192.0.2.1", "2001:db8::1", "192.0.2.2"))
		case "four.test.":
			return packed(with(m, 60, "192.0.2.4"))
		case "six.test.":
			return packed(with(m, 60, "2001:db8::6"))
		case "short.corp.test.":
			return packed(with(m, 60, "192.0.2.5"))
		case "alias.test.":
			alias := dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName("four.test.")},
			}
			m = with(m, 60, "192.0.2.4")
			m.Answers = append([]dnsmessage.Resource{alias}, m.Answers...)
			return packed(m)
		case "large.test.":
			if network == "udp" {
				m.RCode, m.Truncated = dnsmessage.RCodeSuccess, true
				return packed(m)
			}
			var many []string
			for i := range 255 {
				many = append(many, fmt.Sprintf("192.0.2.%d", i))
			}
			return packed(with(m, 60, many...))
		}
		return packed(m)
	})
	r := resolverFor(f)
	r.Search = []string{"nothing.test", "corp.test."}
	want(t, r, "both.test", "2001:db8::1 192.0.2.1 192.0.2.2")
	want(t, r, "Both.TEST.", "2001:db8::1 192.0.2.1 192.0.2.2") // remembered
	want(t, r, "four.test", "192.0.2.4")
	want(t, r, "six.test", "2001:db8::6")
	want(t, r, "alias.test", "192.0.2.4")
	want(t, r, "short", "192.0.2.5")
	if list, err := r.Lookup(t.Context(), "large.test"); err != nil || len(list) != 255 {
		t.Errorf("large.test: %d addresses, %v; want 255", len(list), err)
	}
	for range 2 {
		if list, err := r.Lookup(t.Context(), "none.test"); !errors.Is(err, ErrNotFound) || len(list) > 0 {
			t.Errorf("none.test: %v, %v", list, err)
		}
	}
	var asked []string
	for _, q := range []string{"both.test", "four.test", "six.test", "alias.test", "short.nothing.test", "short.corp.test", "large.test", "none.test"} {
		asked = append(asked, "udp A "+q, "udp AAAA "+q)
	}
	asked = append(asked, "tcp A large.test", "tcp AAAA large.test")
	slices.Sort(asked)
	if got := f.queries(); !slices.Equal(got, asked) {
		t.Errorf("asked %q, want %q", got, asked)
	}
}

// What needs no server asks none.
func TestLookupAsksNobody(t *testing.T) {
	r := &Resolver{Dial: func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		t.Error("a server was asked")
		return nil, io.EOF
	}}
	want(t, r, "192.0.2.1", "192.0.2.1")
	want(t, r, "::ffff:192.0.2.1", "192.0.2.1")
	want(t, r, "2001:DB8::1", "2001:db8::1")
	want(t, r, "localhost", "127.0.0.1 ::1")
	want(t, r, "a.Localhost.", "127.0.0.1 ::1")
	if _, err := r.Lookup(t.Context(), "x.test"); !errors.Is(err, ErrNoServer) {
		t.Errorf("without a server: %v", err)
	}
	r.Servers = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}
	for _, name := range []string{"", ".", "a..b", ".test", strings.Repeat("a.", 200)} {
		if _, err := r.Lookup(t.Context(), name); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v, want it refused", name, err)
		}
	}
	r.Dial = func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, io.EOF }
	if _, err := r.Lookup(t.Context(), strings.Repeat("a", 64)+".test"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a label of 64 letters: %v, want it refused", err)
	}
}

// A server that fails or says nothing is not the end: there are others, and a
// second try. Forged answers are not taken.
func TestLookupGoesOn(t *testing.T) {
	good := func(_ string, m *dnsmessage.Message) [][]byte { return packed(with(m, 0, "192.0.2.1")) }
	var once sync.Map
	for name, bad := range map[string]func(network string, m *dnsmessage.Message) [][]byte{
		"silent": func(string, *dnsmessage.Message) [][]byte { return nil },
		"failing": func(_ string, m *dnsmessage.Message) [][]byte {
			m.RCode = dnsmessage.RCodeServerFailure
			return packed(m)
		},
		"refusing": func(_ string, m *dnsmessage.Message) [][]byte { m.RCode = dnsmessage.RCodeRefused; return packed(m) },
		"broken": func(_ string, m *dnsmessage.Message) [][]byte {
			b := packed(with(m, 60, "192.0.2.66", "2001:db8::66"))[0]
			return [][]byte{b[:len(b)-3]}
		},
		"cut off even over TCP": func(_ string, m *dnsmessage.Message) [][]byte {
			m.RCode, m.Truncated = dnsmessage.RCodeSuccess, true
			return packed(m)
		},
		"forged ID": func(_ string, m *dnsmessage.Message) [][]byte { m.ID++; return packed(with(m, 60, "192.0.2.66")) },
		"a query": func(_ string, m *dnsmessage.Message) [][]byte {
			m.Response = false
			return packed(with(m, 60, "192.0.2.66"))
		},
		"another's answer": func(_ string, m *dnsmessage.Message) [][]byte {
			m.Questions[0].Name = dnsmessage.MustNewName("y.test.")
			return packed(with(m, 60, "192.0.2.66"))
		},
		"garbage": func(string, *dnsmessage.Message) [][]byte { return [][]byte{{0}, nil, []byte("hello")} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := resolverFor(newFake(t, bad), newFake(t, good))
			r.Timeout = time.Second
			want(t, r, "x.test", "192.0.2.1")
			r = resolverFor(newFake(t, bad))
			r.Timeout = 50 * time.Millisecond
			if _, err := r.Lookup(t.Context(), "x.test"); err == nil || errors.Is(err, ErrNotFound) || strings.Contains(err.Error(), "\n") {
				t.Errorf("from the bad server alone: %v", err)
			}
		})
	}
	t.Run("second try", func(t *testing.T) {
		r := resolverFor(newFake(t, func(network string, m *dnsmessage.Message) [][]byte {
			if _, again := once.LoadOrStore(m.Questions[0].Type, true); !again {
				return nil
			}
			return good(network, m)
		}))
		r.Timeout = time.Second
		want(t, r, "x.test", "192.0.2.1")
	})
	t.Run("the true answer after forged ones", func(t *testing.T) {
		r := resolverFor(newFake(t, func(network string, m *dnsmessage.Message) [][]byte {
			forged := *m
			forged.ID++
			return append(packed(with(&forged, 60, "192.0.2.66")), good(network, m)...)
		}))
		want(t, r, "x.test", "192.0.2.1")
	})
	t.Run("interrupted", func(t *testing.T) {
		r := resolverFor(newFake(t, func(string, *dnsmessage.Message) [][]byte { return nil }))
		r.Timeout = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := r.Lookup(ctx, "x.test"); err == nil {
			t.Error("a lookup without an answer has succeeded")
		}
	})
}

// Answers are remembered for as long as they say, and not for ever.
func TestCache(t *testing.T) {
	var c cache
	now := time.Now()
	one := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	c.put("minute", answer{addrs: one, ttl: time.Minute}, now)
	c.put("never", answer{addrs: one}, now)
	c.put("long", answer{addrs: one, ttl: 24 * time.Hour}, now)
	c.put("missing", answer{err: ErrNotFound, ttl: negativeTTL}, now)
	for _, tt := range []struct {
		name  string
		after time.Duration
		there bool
	}{
		{"minute", time.Minute - 1, true}, {"minute", time.Minute, false}, {"never", 0, false},
		{"long", maxTTL - 1, true}, {"long", maxTTL, false},
		{"missing", negativeTTL - 1, true}, {"missing", negativeTTL, false}, {"unknown", 0, false},
	} {
		if _, _, ok := c.get(tt.name, now.Add(tt.after)); ok != tt.there {
			t.Errorf("%s after %v: there is %v, want %v", tt.name, tt.after, ok, tt.there)
		}
	}
	for i := range 3 * maxCached {
		c.put(fmt.Sprint(i), answer{addrs: one, ttl: time.Minute}, now)
		if len(c.m) > maxCached {
			t.Fatalf("%d names are remembered", len(c.m))
		}
	}
	if _, _, ok := c.get(fmt.Sprint(3*maxCached-1), now); !ok {
		t.Error("the last name is not remembered")
	}
	c.m = nil
	for i := range maxCached { // what is over makes room first
		c.put(fmt.Sprint(i), answer{addrs: one, ttl: time.Duration(i%2+1) * time.Second}, now)
	}
	c.put("new", answer{addrs: one, ttl: time.Second}, now.Add(time.Second))
	if n := len(c.m); n != maxCached/2+1 {
		t.Errorf("%d names are left, want %d", n, maxCached/2+1)
	}
}

// Whatever a server sends, it is read or refused.
func FuzzRead(f *testing.F) {
	q := dnsmessage.Question{Name: dnsmessage.MustNewName("x.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	m := &dnsmessage.Message{Header: dnsmessage.Header{ID: 1, Response: true}, Questions: []dnsmessage.Question{q}}
	f.Add(packed(with(m, 60, "192.0.2.1"))[0])
	f.Fuzz(func(t *testing.T, msg []byte) {
		a, cut, ours := read(msg, 1, q)
		if (cut || !ours) && len(a.addrs) > 0 || a.err != nil && len(a.addrs) > 0 {
			t.Errorf("%+v, cut off %v, ours %v", a, cut, ours)
		}
	})
}
