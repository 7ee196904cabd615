package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/filelock"
	"github.com/wgjail/wgjail/relay"
	"github.com/wgjail/wgjail/veth"
)

// An entry is one forward in the register: a record that its process holds and
// a page of counters that it shares with whoever asks.
//
//	/run/wgjail/NAME/forwards/ID.json   the record, locked while the forward lives
//	/run/wgjail/NAME/forwards/ID.stats  relay.Stats, mapped into memory
//	/run/wgjail/NAME/forwards/ID.PID.veth  locked while there may be rules for it
//
// To stop a forward, remove its record.
type entry struct {
	says      record
	path      string
	record    *os.File
	published bool // the record has its name
	stats     *relay.Stats
	listeners []io.Closer

	redirect *veth.Forward // nil unless in veth mode
	rules    *os.File      // held until the rules have gone
}

// A record is what an entry says about its forward. The first line of the file
// is the number of the process, the rest is JSON.
type record struct {
	ID     string         `json:"id"`
	PID    int            `json:"pid"`
	Mode   Mode           `json:"mode"`
	Proto  string         `json:"proto"`
	Listen string         `json:"listen"`
	Target string         `json:"target"`
	Allow  []netip.Prefix `json:"allow"`
	Source Source         `json:"source"`
	Proxy  string         `json:"proxy_protocol,omitempty"`

	Reverse bool `json:"reverse,omitempty"` // listens in the jail, and the target is on the host
}

// A savedRecord is a record as it is in its file.
type savedRecord struct {
	record
	Netns    string        `json:"netns,omitempty"`    // the file of a namespace that is not a jail
	Redirect *veth.Forward `json:"redirect,omitempty"` // in veth mode

	path string
}

// errRegistered is the error for a listen address that a living forward has.
var errRegistered = errors.New("it is there already")

// newEntry makes the entry of what says describes; its process and the networks
// that are allowed are added. Nobody sees it before publish. The caller holds the
// place's lock. The error is errRegistered if a living forward has the same ID.
func newEntry(p Place, says record, allow []netip.Prefix, redirect *veth.Forward) (*entry, error) {
	says.PID, says.Allow = os.Getpid(), allow
	if len(allow) == 0 {
		says.Allow = []netip.Prefix{defaultIPv4, defaultIPv6}
	}
	e := &entry{says: says, path: filepath.Join(forwardDir(p.register()), says.ID+".json"), redirect: redirect}
	if alive, err := held(e.path); err != nil {
		return nil, err
	} else if alive {
		return nil, errRegistered
	}
	rec := savedRecord{Netns: p.Path, Redirect: redirect, record: says}
	err := e.write(rec)
	for range 100 {
		if p.Jail != "" || !errors.Is(err, os.ErrNotExist) {
			break
		}
		err = e.write(rec) // the last forward before this one has just removed the folder
	}
	if err != nil {
		e.remove()
		return nil, err
	}
	return e, nil
}

// write makes the counters, and the record under another name, and locks it: a
// record that is seen is a locked one.
func (e *entry) write(rec savedRecord) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(e.path), 0o700); err != nil {
		return err
	}
	if e.stats, err = shareStats(statsPath(e.path)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(e.path), ".new-*")
	if err != nil {
		return err
	}
	e.record = f
	if _, err := fmt.Fprintf(f, "%d\n%s\n", rec.PID, text); err != nil {
		return err
	}
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// publish shows all entries: each is served from now on.
func (f *Forwarder) publish() error {
	for _, e := range f.entries {
		if err := os.Rename(e.record.Name(), e.path); err != nil {
			return err
		}
		e.published = true
	}
	return nil
}

// hide takes the entry out of the register. Whoever waits for its end goes on
// waiting.
func (e *entry) hide() {
	if e.record == nil {
		return
	}
	if e.published && filelock.Names(e.path, e.record) {
		os.Remove(e.path)
	}
	if !e.published || missing(e.path) { // else the next forward has it
		os.Remove(statsPath(e.path))
	}
	os.Remove(e.record.Name()) // if it has never got its name
}

// remove takes the entry out of the register and lets go of it.
func (e *entry) remove() {
	e.hide()
	if e.record != nil {
		e.record.Close()
		e.record = nil
	}
}

// holdRules makes the file that says that there may be rules for the entry.
func (e *entry) holdRules(path string) (err error) {
	if e.rules, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	if err := unix.Flock(int(e.rules.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.rules, os.Getpid())
	return err
}

// letGo removes that file, unless there are rules left: then the next command finds
// it, and removes them.
func (e *entry) letGo(left bool) {
	if e.rules == nil {
		return
	}
	if !left {
		os.Remove(e.rules.Name())
	}
	e.rules.Close()
}

func (f *Forwarder) unregister() {
	for _, e := range f.entries {
		e.remove()
	}
	f.opts.Into.forgetEmpty()
	if f.client != nil {
		if err := f.client.close(); err != nil {
			f.opts.Log.Warn("remove the routes for clients' addresses", "err", err)
		}
		f.client = nil
	}
}

// forgetEmpty removes the register of a place that is not a jail, if nothing is
// in it: nobody else clears up after a namespace that is not ours.
func (p Place) forgetEmpty() {
	if p.Jail == "" {
		os.Remove(forwardDir(p.register()))
		os.Remove(stateDir(p.register()))
		os.Remove(runDir)
	}
}

// forwardID names a forward by where it listens, which only one can.
func forwardID(s ForwardSpec) string {
	id := entryID(s.Network, listenText(s))
	if s.Reverse {
		id = "reverse-" + id
	}
	return id
}

func entryID(proto, listen string) string {
	id := fmt.Sprintf("%s-%s", proto, strings.ReplaceAll(listen, "*:", ""))
	return strings.NewReplacer("[", "", "]", "", "%", "_", "/", "_").Replace(id)
}

// hostPorts is the part of s that says where the host listens.
func hostPorts(s ForwardSpec) ForwardSpec {
	s.Target = s.First
	return s
}

func listenText(s ForwardSpec) string {
	if s.Reverse && !s.Addr.IsValid() {
		s.Addr = loopbacks[0]
	}
	if !s.Addr.IsValid() {
		return "*:" + portRange(s.First, s.Last)
	}
	return portsText(s.Addr, s.First, s.Last)
}

func portsText(a netip.Addr, first, last uint16) string {
	if first == last {
		return netip.AddrPortFrom(a, first).String()
	}
	return netip.AddrPortFrom(a, first).String() + fmt.Sprintf("-%d", last)
}

func portRange(first, last uint16) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

func statsPath(recordPath string) string { return strings.TrimSuffix(recordPath, ".json") + ".stats" }

// shareStats makes the file of counters at path, all zero, and maps it into
// memory for as long as the process lives.
func shareStats(path string) (*relay.Stats, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(relay.StatsSize); err != nil {
		return nil, err
	}
	page, err := unix.Mmap(int(f.Fd()), 0, relay.StatsSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "map", Path: path, Err: err}
	}
	return (*relay.Stats)(unsafe.Pointer(&page[0])), nil
}

// readStats returns the counters in the file at path.
func readStats(path string) (relay.Stats, error) {
	data, err := readOwned(path)
	if err != nil {
		return relay.Stats{}, err
	}
	if len(data) < relay.StatsSize {
		return relay.Stats{}, fmt.Errorf("%s: too short", path)
	}
	var s relay.Stats
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&s)), relay.StatsSize), data)
	return s, nil
}
