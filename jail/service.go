package jail

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// ServiceDropIn returns the drop-in (systemd.unit(5)) that puts a service into
// the jail called name, as Exec puts a program there: its network, the jail's
// name servers, and none of the daemons that answer from the host.
//
// unit is the service that makes the jail. The other one starts it, and stops
// with it.
func ServiceDropIn(name, unit string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "[Unit]\nBindsTo=%[1]s\nAfter=%[1]s\n\n[Service]\n", unit)
	fmt.Fprintf(&b, "NetworkNamespacePath=%s\n", netnsx.Path(name))
	for _, file := range []string{"resolv.conf", "nsswitch.conf"} {
		fmt.Fprintf(&b, "BindReadOnlyPaths=%s:%s\n", filepath.Join(dnsDir(name), file), filepath.Join("/etc", file))
	}
	b.WriteString("# Sockets that answer whatever the network namespace of the one who asks. They are covered as folders, whether\n" +
		"# they are there yet or not. An empty folder and not a forbidden one: resolv.conf may be a link into it.\n")
	for _, path := range runHidden {
		fmt.Fprintf(&b, "TemporaryFileSystem=%s:ro\n", filepath.Join("/run", path))
	}
	b.WriteString("InaccessiblePaths=-/var/lib/sss/pipes\n")
	return []byte(b.String())
}
