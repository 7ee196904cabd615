// Package provider is a VPN provider in miniature: a WireGuard server in this
// process, with services behind it, for the demo, the tests and the benchmarks.
//
//	client ══ UDP ══► socket in Outside │ server │ TUN in Inside ──► services
//
// It needs neither the kernel's WireGuard nor the network: the UDP socket and the
// TUN device live in the two namespaces it is given. It does not forward packets;
// the world ends at the addresses of Inside.
//
// Services can be had alone as well, as the open internet that a leak would reach.
package provider
