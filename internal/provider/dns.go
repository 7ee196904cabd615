package provider

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// A Query is a question that a name server was asked.
type Query struct {
	Network string // "tcp" or "udp"
	Client  netip.AddrPort
	Name    string // lower case, without the final dot
	Type    string // "A", "AAAA", …
}

// names is the table of a name server, and what it was asked.
type names struct {
	mu      sync.Mutex
	addrs   map[string][]netip.Addr
	queries []Query
}

func newNames() *names { return &names{addrs: map[string][]netip.Addr{}} }

func (n *names) set(name string, addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(addrs) == 0 {
		delete(n.addrs, strings.ToLower(name))
		return
	}
	n.addrs[strings.ToLower(name)] = slices.Clone(addrs)
}

func (n *names) asked() []Query {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.queries)
}

// lookup notes the question and returns what is known of its name.
func (n *names) lookup(q Query) (addrs []netip.Addr, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.queries) < callLimit {
		n.queries = append(n.queries, q)
	}
	addrs, known = n.addrs[q.Name]
	return addrs, known
}

// answerDatagram answers a query, and echoes what is none.
func (s *Services) answerDatagram(from netip.AddrPort, data []byte) []byte {
	if out := s.names.answer("udp", from, data); out != nil {
		return out
	}
	return data
}

// answerStream answers queries that follow their length (RFC 1035, 4.2.2). A
// stream that begins otherwise is echoed.
func (s *Services) answerStream(c net.Conn) {
	from := unmap(c.RemoteAddr().(*net.TCPAddr).AddrPort())
	in := bufio.NewReader(c)
	for {
		head, err := in.Peek(2)
		if err != nil || head[0] != 0 { // no query of the tests is that long
			io.Copy(c, in)
			return
		}
		data := make([]byte, 2+binary.BigEndian.Uint16(head))
		if _, err := io.ReadFull(in, data); err != nil {
			return
		}
		out := s.names.answer("tcp", from, data[2:])
		if out == nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}

// answer returns the reply to a query, or nil if data is none.
func (n *names) answer(network string, from netip.AddrPort, data []byte) []byte {
	var in dnsmessage.Parser
	head, err := in.Start(data)
	if err != nil || head.Response {
		return nil
	}
	question, err := in.Question()
	if err != nil {
		return nil
	}
	addrs, known := n.lookup(Query{
		Network: network,
		Client:  from,
		Name:    strings.ToLower(strings.TrimSuffix(question.Name.String(), ".")),
		Type:    strings.TrimPrefix(question.Type.String(), "Type"),
	})
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: head.ID, Response: true, Authoritative: true,
			RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{question},
	}
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		if body := resource(question.Type, a); body != nil {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET},
				Body:   body,
			})
		}
	}
	out, err := reply.Pack()
	if err != nil {
		return nil
	}
	return out
}

// resource returns the record for an address, or nil if it is of another type.
func resource(kind dnsmessage.Type, a netip.Addr) dnsmessage.ResourceBody {
	switch {
	case kind == dnsmessage.TypeA && a.Is4():
		return &dnsmessage.AResource{A: a.As4()}
	case kind == dnsmessage.TypeAAAA && a.Is6():
		return &dnsmessage.AAAAResource{AAAA: a.As16()}
	}
	return nil
}
