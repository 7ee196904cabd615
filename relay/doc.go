// Package relay moves TCP connections and UDP datagrams from sockets in one
// network namespace to addresses in another. It knows sockets, not namespaces:
// where its workers go is up to the hook Relay.Enter.
//
//	 caller's thread            worker's thread, moved by Enter
//	┌────────────────┐  ┌──────────────────────────────────────────────┐
//	│ Listen         │  │ epoll                                        │
//	│  socket, bind  ├──► accept ─► admit ─► dial ─► pump ◄──┐         │
//	│  (listen.go)   │  │  accept.go         dial.go  pump.go│ events  │
//	└────────────────┘  │                        │      └────┘         │
//	                    │                     finish.go: FIN, RST      │
//	                    └──────────────────────────────────────────────┘
//
// A worker is a goroutine with an epoll loop (worker.go). Enter has moved its
// thread for good, so a socket that it makes belongs to the other namespace; a
// socket that it accepts from belongs to where Listen was called. Each
// connection has one owner, and needs no goroutine, lock, buffer or timer of
// its own: an idle one is two descriptors and about 100 bytes (slab.go).
//
// A client is accepted by the worker that the kernel wakes (accept.go), checked
// against Forward.Allow and Limits, and a target is dialled without blocking
// (dial.go). If it does not accept, the next is tried; after the last the
// client is reset, just as if nobody listened.
//
// Then bytes are pumped (pump.go). Events are edge-triggered. A read goes into
// the worker's one buffer and from there to the other socket; only what that
// does not take is kept, and then nothing more is read: memory is bounded, and
// the sender is held back by TCP itself. A direction that fills the buffer
// several times in a row is bulk: its pages are spliced through a pipe
// (splice.go), which belongs to it only while bytes are in it.
//
// The target may be told who its client is: it can be dialled from the client's own
// address, or hear of it in a header before the first byte (identity.go).
//
// How it ends is passed on as it was (finish.go): FIN for FIN, each direction by
// itself, and RST for RST, after the last byte.
//
// UDP has a flow for each client and local address, with a connected socket to
// the target, in the same loop (udp.go).
//
// CONFORMANCE.md lists what must hold, and the tests of it.
//
// Waiting is half of the cost of a small message; wait.go tells how it is done, and
// pace.go when haste is worth it.
package relay
