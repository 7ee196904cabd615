package jail

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/wgjail/wgjail/internal/filelock"
	"github.com/wgjail/wgjail/internal/hint"
)

// validName is wg-quick(8)'s rule for names of interfaces, without the names
// that a path or an option could be mistaken for.
var validName = regexp.MustCompile(`^[A-Za-z0-9_=+][A-Za-z0-9_=+.-]{0,14}$`)

// CheckName reports whether name can be a jail's: one to fifteen characters
// out of letters, digits and _ = + . -, the first one neither "-" nor ".", and
// not reserved.
func CheckName(name string) error {
	if reserved[name] {
		return hint.Wrap(fmt.Errorf("%q cannot be the name of a jail: the kernel uses it", name), "give the file another name: it names the jail")
	}
	if validName.MatchString(name) {
		return nil
	}
	return hint.Wrap(fmt.Errorf("%q cannot be the name of a jail", name),
		"a name has 1 to 15 characters out of letters, digits and _=+.- and starts with neither - nor . (it also names the interface)")
}

// reserved are names that mean something else to the kernel's interfaces: the
// loopback device, and two folders below /proc/sys/net/ipv4/conf.
var reserved = map[string]bool{"lo": true, "all": true, "default": true}

// temporaryLink is the name under which the jail's interface is made on the
// host, before it moves in. Every name in the kernel that is not the jail's
// own comes from here.
func temporaryLink(name string) string {
	sum := sha256.Sum256([]byte("wgjail\x00" + name))
	return "wgj" + hex.EncodeToString(sum[:6])
}

// runDir holds the state of all jails (tmpfs: gone with the namespaces at
// reboot).
const runDir = filelock.RunDir

// etcNetns is where ip-netns(8) looks for files to show inside a namespace. Only
// root can make that folder; in a world there is another one.
func etcNetns() string {
	if rootless() {
		return filepath.Join(runDir, ".etc-netns")
	}
	return "/etc/netns"
}

func stateDir(name string) string   { return filepath.Join(runDir, name) }
func forwardDir(name string) string { return filepath.Join(runDir, name, "forwards") }
func keeperFile(name string) string { return filepath.Join(runDir, name, "keeper") }
func keeperLog(name string) string  { return filepath.Join(runDir, name, "keeper.log") }
func dnsDir(name string) string     { return filepath.Join(etcNetns(), name) }
