package jail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// KeeperCommand is the hidden command under which wgjail runs as a keeper. Its
// argument is the jail's name.
const KeeperCommand = "keeper"

// committed is the second line of the keeper's file, when the keeper goes on by
// itself. The first one is its process ID.
const committed = "committed"

// startKeeper starts the jail's keeper and waits until its tunnel can be
// configured. The error is ErrBusy if there is a keeper already. The caller
// holds the jail's lock.
func startKeeper(name string, args []string) (*Background, error) {
	alive, err := held(keeperFile(name))
	if err != nil {
		return nil, err
	}
	if alive {
		return nil, ErrBusy
	}
	held, err := heldFile(keeperFile(name))
	if err != nil {
		return nil, err
	}
	defer held.Close()
	log, err := os.OpenFile(keeperLog(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return StartBackground(append([]string{KeeperCommand, name}, args...), held, log)
}

// heldFile makes an empty file at path that is locked. It is locked before it
// is there: whoever looks whether it is held holds it himself for a moment.
func heldFile(path string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		f.Close()
		return nil, err
	}
	return f, nil
}

// settleKeeper waits until the jail's keeper, if it has one, goes on by itself
// or has ended: one that was never told to go on is alive for a moment after an
// up that was killed.
func settleKeeper(ctx context.Context, name string) error {
	f, err := os.Open(keeperFile(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for deadline := time.Now().Add(2 * time.Second); !free(f); time.Sleep(5 * time.Millisecond) {
		var text [64]byte
		n, _ := f.ReadAt(text[:], 0)
		if strings.Contains(string(text[:n]), committed) {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return stopHolder(ctx, keeperFile(name), time.Second)
		}
	}
	return nil
}

// RunKeeper is the keeper's whole life. It owns the userspace tunnel, if the
// jail has one, and watches over the tunnel until ctx is done.
//
// Tests make it wait haste times less than usual; 0 is as usual.
//
// It is started by startKeeper and by nobody else.
func RunKeeper(ctx context.Context, name string, log *slog.Logger, haste int) error {
	k, err := openKeeper(name, log)
	k.tempo = usualTempo.hastened(haste)
	if !ReportReady(err) {
		k.close()
		return err
	}
	defer k.close()
	if _, err := k.held.WriteString(committed + "\n"); err != nil {
		log.Warn("the next up will take this keeper for one that was left behind", "err", err)
	}
	w := k.newWatcher(readClocks())
	log.Info("keeper started", "jail", name, "backend", string(k.state.Backend), "pid", os.Getpid())
	defer k.keepPort(ctx)()
	w.watch(ctx)
	log.Info("keeper ended", "jail", name)
	return nil
}

// A keeper holds what RunKeeper needs.
type keeper struct {
	state  *state
	ns     *netnsx.Namespace
	tunnel *tunnel  // nil with kernel WireGuard
	held   *os.File // its lock says that the keeper lives
	log    *slog.Logger
	tempo  tempo
	health health
}

func openKeeper(name string, log *slog.Logger) (*keeper, error) {
	k := &keeper{log: log}
	step := func(what string) { log.Debug("step", "do", what, "jail", name) }
	step("hide the memory")
	if err := HideMemory(); err != nil {
		return k, err
	}
	if k.held = os.NewFile(heldFD, "held"); k.held == nil {
		return k, errors.New("the keeper is started by wgjail up, not by hand")
	}
	unix.CloseOnExec(heldFD)
	step("register the keeper")
	if _, err := k.held.WriteString(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		return k, fmt.Errorf("register the keeper: %w", err)
	}
	step("open the jail")
	s, err := loadState(name)
	if err != nil {
		return k, err
	}
	k.state = s
	if k.ns, err = s.openNamespace(); err != nil {
		return k, err
	}
	if s.Backend == Userspace {
		step("start the tunnel")
		k.tunnel, err = startTunnel(k.ns, name, s.MTU, log)
	}
	step("say that it is ready")
	return k, err
}

func (k *keeper) close() {
	if k.tunnel != nil {
		k.tunnel.close()
	}
	if k.ns != nil {
		k.ns.Close()
	}
	if k.held != nil {
		k.held.Close()
	}
}
