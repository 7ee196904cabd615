// Package load drives traffic and measures it: clients, and the servers that
// answer them.
//
// It knows sockets. It does not know namespaces or what stands between client
// and server: it is given a hook that moves a worker's thread (Enter), as
// package relay is.
//
//	client worker: one thread, one epoll ──► whatever is measured ──► server worker: one thread, one epoll
//
// Client and server speak HTTP/1.1, so that wrk can take the client's place. All
// memory is taken before a measurement begins: nothing is allocated for a
// request, a datagram or a read. A figure is what was counted between two looks
// at the same counters, divided by the time between them; what is sent is
// counted where it arrives.
package load
