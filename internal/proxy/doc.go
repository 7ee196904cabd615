// Package proxy lets programs that can use a SOCKS5 or HTTP proxy reach what is
// reached from another network namespace, without moving there.
//
//	client ─► accept ─► handshake ─► look up ─► dial ─► reply ─► relay.Adopter
//	        server.go   socks.go    (Server.Lookup, Server.Dialer)   moves the
//	                    http.go        target.go                       bytes
//
// It knows protocols, not namespaces: where names are asked and sockets are made
// is up to the hooks of Server. Here are the first bytes of a connection only;
// once it is known where to, both sockets are the relay's. Datagrams are the
// exception (udp.go): each says where to.
//
// The protocols are written down here, not taken from a library: those there are
// want to dial and to copy by themselves, which would be in the wrong namespace
// and past the relay. Of HTTP net/http reads the requests.
//
//	SOCKS5  RFC 1928: CONNECT, UDP ASSOCIATE; RFC 1929: user and password
//	HTTP    RFC 9110, 9.3.6: CONNECT; RFC 9112, 3.2.2: "GET http://…"; RFC 7617: user and password
//
// A request that is not CONNECT has a connection for itself: "Connection: close"
// tells both sides. So the response is passed on by the relay like any other
// bytes, and no server can get hold of the client's next request, to another.
package proxy
