// Package nft opens nf_tables in a network namespace.
package nft

import (
	"github.com/google/nftables"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// Open opens a connection to the packet filter of ns, or of where the caller is if
// ns is nil. The caller closes it with CloseLasting. Its socket is made here, once
// and on a thread in ns: the library's own way of getting there (WithNetNSFd) loses
// the error when it fails, and then calls what is nil.
func Open(ns *netnsx.Namespace) (c *nftables.Conn, err error) {
	open := func() error {
		c, err = nftables.New(nftables.AsLasting())
		return err
	}
	if ns == nil {
		err = open()
	} else {
		err = ns.Do(open)
	}
	return c, err
}
