// Package bench measures what a forward costs: relay and veth against each
// other, against no forwarder at all, and against other people's forwarders.
//
// It runs inside a machine of its own (internal/machine) and builds this lab:
//
//	            ┌─ 192.168.77 ── host ── 198.51.100 ── inet ═ provider ═ exit
//	lan ────────┤                  ╎
//	            │           what is measured
//	            │                  ╎
//	            │                jail, with its own tunnel to the provider
//	            │                  │
//	            └─ 192.168.78 ── router ── a DNAT rule written by hand
//
// Clients are in lan, servers in the jail. What is measured runs as real
// processes on the host, as a user would start it, one at a time: each round
// starts each candidate anew, puts every workload through it, and stops it, so
// that no candidate pays for another one's rules and processes. The hand-written
// rule has a router of its own for the same reason.
//
// Load comes from this process: see package load. Figures are in package report.
package bench
