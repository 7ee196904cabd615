package jail

import (
	"fmt"

	"github.com/google/nftables"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/nft"
)

// OnHost reports whether this is a place to make jails in and to open ports at.
// In a jail it is not: the tunnel's socket would be in the other jail, and go
// down with it, and the ports would be where no client is.
func OnHost() error {
	here, err := netnsx.Current()
	if err != nil {
		return err
	}
	defer here.Close()
	if name := jailAt(here); name != "" {
		return insideError("jail " + name)
	}
	if hasJailRules(here) { // a program in a jail does not see who has made it
		return insideError("a jail")
	}
	return nil
}

func insideError(where string) error {
	return hint.Wrap(fmt.Errorf("this is inside %s", where), "call wgjail on the host")
}

// jailAt returns the name of the jail whose namespace ns is, or "".
func jailAt(ns *netnsx.Namespace) string {
	names, _ := List()
	for _, name := range names {
		if s, err := loadState(name); err == nil && s.Namespace == ns.ID() {
			return name
		}
	}
	return ""
}

// hasJailRules reports whether ns has the rules of a jail. Who may not look may
// not make a jail either.
func hasJailRules(ns *netnsx.Namespace) bool {
	c, err := nft.Open(ns)
	if err != nil {
		return false
	}
	defer c.CloseLasting()
	chains, _ := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	for _, chain := range chains {
		if chain.Table.Name == tableName && chain.Name == namesChain {
			return true
		}
	}
	return false
}
