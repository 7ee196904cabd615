// Package arrows holds the module's layout in place. Its tests read the source
// and fail when a package imports what is not for it:
//
//	cmd/wgjail ──► jail ──┬─► relay              sockets, no namespaces
//	                      ├─► veth ──┐           rules, no configuration
//	                      └──────────┴─► internal/netnsx    threads and namespaces
//
// or when a library, a system call or the locking of a thread is used outside
// its one home. The rules are the tables in rules.go.
package arrows
