package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/userns"
)

// TrialCommand is the hidden command under which wgjail runs as the program that
// tries, in a user namespace of its own, what a jail needs there. It calls Trial.
const TrialCommand = "trial"

// A trial is what became of a user namespace of the caller's own, and of what a
// jail needs in it.
type trial struct {
	began error // why there is no such namespace: a *userns.StartError if the kernel refused
	tried map[string]error
}

// The parts of a trial. Those below network need it.
const (
	tryMounts   = "mounts"
	tryNetwork  = "network"
	tryDevice   = "device"
	tryTUN      = "tun"
	tryRules    = "rules"
	trySettings = "sysctls"
	trySys      = "sys"
	trySysSpare = "sys without devices" // if trySys is refused
)

// runTrial makes the namespaces as a jail without root does, and removes them.
func runTrial() *trial {
	t := &trial{tried: map[string]error{}}
	r, w, err := os.Pipe()
	if err != nil {
		return &trial{began: err}
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.Close()
		return &trial{began: err}
	}
	defer null.Close()
	pid, err := userns.Start(userns.Options{
		User: userns.New, Mount: userns.New,
		Argv: []string{"wgjail", TrialCommand}, Env: os.Environ(),
		Files: []int{int(null.Fd()), int(w.Fd()), int(null.Fd())},
	})
	w.Close()
	if err != nil {
		return &trial{began: err}
	}
	for results := json.NewDecoder(r); ; {
		var res trialResult
		if results.Decode(&res) != nil {
			break
		}
		t.tried[res.Part] = res.err()
	}
	userns.Reap(pid)
	return t
}

// A trialResult crosses the pipe: a text and what errors.Is asks for.
type trialResult struct {
	Part  string
	Text  string     `json:",omitempty"`
	Errno unix.Errno `json:",omitempty"`
}

func (r trialResult) err() error {
	if r.Text == "" {
		return nil
	}
	return &triedError{r.Text, r.Errno}
}

type triedError struct {
	text  string
	errno unix.Errno
}

func (e *triedError) Error() string { return e.text }
func (e *triedError) Unwrap() error { return e.errno }

// Trial is the whole life of the program that tries: it writes to out what became
// of each part. What it makes goes away with it.
func Trial(out io.Writer) error {
	enc := json.NewEncoder(out)
	var lost error
	say := func(part string, err error) {
		res := trialResult{Part: part}
		if err != nil {
			res.Text = err.Error()
			errors.As(err, &res.Errno)
		}
		lost = errors.Join(lost, enc.Encode(res))
	}
	say(tryMounts, mountSomething())
	say(tryDevice, openDevice())
	ns, err := netnsx.New()
	say(tryNetwork, err)
	if err != nil {
		return lost
	}
	defer ns.Close()
	say(tryTUN, ns.Do(makeInterface))
	say(trySettings, ns.Do(func() error { return applySettings(settings) }))
	say(tryRules, applyRules(ns, &state{Name: trialName, DNS: []netip.Addr{netip.IPv6Loopback()}}, openPort{}))
	err = ns.Do(mountOwnSys)
	say(trySys, err)
	if errors.Is(err, os.ErrPermission) {
		say(trySysSpare, mirrorSys(slog.New(slog.DiscardHandler)))
	}
	return lost
}

// trialName is that of the trial's interface, in a namespace of its own.
const trialName = "trial"

// mountSomething does to the program's own mount namespace what a jail needs: a
// tmpfs, and something of the host's bound below it.
func mountSomething() error {
	const dir = "/run"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return &os.PathError{Op: "make private", Path: "/", Err: err}
	}
	if err := unix.Mount("wgjail", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return &os.PathError{Op: "mount a tmpfs on", Path: dir, Err: err}
	}
	to := filepath.Join(dir, "etc")
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/etc", to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return &os.PathError{Op: "bind /etc on", Path: to, Err: err}
	}
	return nil
}

// tunPath is the device that tunnel interfaces are made with.
const tunPath = "/dev/net/tun"

func openDevice() error {
	f, err := os.OpenFile(tunPath, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// makeInterface makes a tunnel interface in the calling thread's namespace.
func makeInterface() error {
	t, err := tun.CreateTUN(trialName, 1280)
	if err != nil {
		return fmt.Errorf("make a TUN interface: %w", err)
	}
	return t.Close()
}
