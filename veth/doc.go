// Package veth joins jail and host with a veth pair and redirects host ports
// into it.
//
// It knows links, routes and rules. It knows neither configuration files nor
// processes: what calls it decides which ports are open, for whom, and when.
//
// A packet's way, with the names that rules.go and jailrules.go explain:
//
//	client 192.168.1.7 ──► host 192.168.1.2:8080
//	   │  nat PREROUTING (nat OUTPUT for clients on the host itself):
//	   │  destination becomes the jail's end of the pair, the source stays
//	   ▼
//	wgjv… ═══ host0       host's end, jail's end; no ARP, no neighbour discovery
//	   │  jail: the connection gets a mark; the destination becomes the
//	   │  tunnel's address, from which the service would answer anyway
//	   ▼
//	service in the jail   sees 192.168.1.7
//	   │  its answer carries the mark, the mark selects a routing table
//	   │  whose one route leads to the host; no other table knows of the pair
//	   ▼
//	host0 ═══ wgjv…       only answers of marked connections may pass here
//	   │  host: only packets of redirected connections may pass here
//	   ▼
//	client
//
// The pair is a second door of the jail, so everything else is refused on both
// sides: inside by rules that root in the jail could remove, outside by rules
// that nobody inside reaches.
//
// Clients on the host's loopback, refused clients, and clients at link-local
// IPv6 addresses are not redirected: they reach the socket that the caller
// keeps open on the port, as do all clients while the rules are gone.
package veth
