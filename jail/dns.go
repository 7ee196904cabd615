package jail

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
)

// ownedMark is the first line of nsswitch.conf in a folder that is ours. It
// outlives a reboot, as the folder does and the state does not.
const ownedMark = "# made by wgjail: removed by \"wgjail down\"\n"

// resolvConf is the jail's resolv.conf(5). Without a server it is empty: glibc
// then asks 127.0.0.1, which in the jail is the jail.
func resolvConf(servers []netip.Addr, search []string) []byte {
	var b bytes.Buffer
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(servers) > 0 && len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	return b.Bytes()
}

// nsswitchConf is the host's nsswitch.conf(5) with a hosts line that asks
// files and the jail's servers only: resolve, mdns and others talk to daemons
// of the host over Unix sockets, which no network namespace holds back.
func nsswitchConf(host []byte) []byte {
	var b bytes.Buffer
	b.WriteString(ownedMark)
	for line := range strings.Lines(string(host)) {
		if field, _, _ := strings.Cut(strings.TrimSpace(line), ":"); strings.EqualFold(strings.TrimSpace(field), "hosts") {
			continue
		}
		b.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	b.WriteString("hosts: files dns\n")
	return b.Bytes()
}

// dnsFiles is the content of the jail's folder in /etc/netns, by name.
func (s *state) dnsFiles() map[string][]byte {
	host, err := os.ReadFile("/etc/nsswitch.conf")
	if err != nil { // glibc's defaults, less what reaches for the host
		host = []byte("passwd: files\ngroup: files\nshadow: files\n")
	}
	return map[string][]byte{
		"nsswitch.conf": nsswitchConf(host),
		"resolv.conf":   resolvConf(s.DNS, s.Search),
	}
}

// dnsOwner reports whether the folder in /etc/netns may be taken for a new jail:
// it is absent, empty or, by its mark, ours. For a jail that has a state that is
// settled, whatever became of the mark.
func dnsOwner(name string) error {
	dir := dnsDir(name)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	mark, err := os.ReadFile(filepath.Join(dir, "nsswitch.conf"))
	if err == nil && bytes.HasPrefix(mark, []byte(ownedMark)) {
		return nil
	}
	return hint.Wrap(fmt.Errorf("%s holds files that wgjail did not make", dir),
		"move them away, or give the configuration file another name: it names the jail")
}

// writeDNS writes the jail's files. The marked one comes first, so that an
// interrupted write is recognised as ours.
func (s *state) writeDNS() error {
	if err := makeDir(dnsDir(s.Name)); err != nil {
		return err
	}
	files := s.dnsFiles()
	for _, name := range []string{"nsswitch.conf", "resolv.conf"} {
		if err := writeWhole(filepath.Join(dnsDir(s.Name), name), files[name], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// checkDNS reports the first of the jail's files that is not as written. What
// nsswitch.conf takes from the host's may be older than the host's is now.
func (s *state) checkDNS() error {
	for _, name := range []string{"nsswitch.conf", "resolv.conf"} {
		path := filepath.Join(dnsDir(s.Name), name)
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		want := resolvConf(s.DNS, s.Search)
		if name == "nsswitch.conf" {
			want = nsswitchConf(bytes.TrimPrefix(got, []byte(ownedMark)))
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s: changed by someone else", path)
		}
	}
	return nil
}

// removeDNS removes the jail's files. A folder that is not ours stays, and so do
// files that others put into it; keepFolder says that it was there before.
func removeDNS(name string, ours, keepFolder bool) error {
	dir := dnsDir(name)
	if missing(dir) || !ours && dnsOwner(name) != nil {
		return nil
	}
	var errs []error
	left, _ := filepath.Glob(filepath.Join(dir, ".new-*")) // of an interrupted write
	for _, path := range append(left, filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "nsswitch.conf")) {
		errs = append(errs, removeFile(path))
	}
	if empty(dir) && !keepFolder {
		errs = append(errs, removeFile(dir))
	}
	return errors.Join(errs...)
}
