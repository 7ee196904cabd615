package jail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// KeeperCommand is the hidden command under which wgjail runs as a keeper. Its
// argument is the jail's name.
const KeeperCommand = "keeper"

// startKeeper starts the jail's keeper and waits until its tunnel can be
// configured. The error is ErrBusy if there is a keeper already.
func startKeeper(name string) (*Background, error) {
	held, err := os.OpenFile(keeperFile(name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, ErrBusy
	}
	if err := held.Truncate(0); err != nil { // the process ID of its predecessor
		return nil, err
	}
	log, err := os.OpenFile(keeperLog(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return StartBackground([]string{KeeperCommand, name}, held, log)
}

// RunKeeper is the keeper's whole life. It owns the userspace tunnel, if the
// jail has one, and watches over the tunnel until ctx is done.
//
// It is started by startKeeper and by nobody else.
func RunKeeper(ctx context.Context, name string, log *slog.Logger) error {
	k, err := openKeeper(name, log)
	if !ReportReady(err) {
		k.close()
		return err
	}
	defer k.close()
	log.Info("keeper started", "jail", name, "backend", string(k.state.Backend), "pid", os.Getpid())
	k.watch(ctx)
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
}

func openKeeper(name string, log *slog.Logger) (*keeper, error) {
	k := &keeper{log: log}
	// Its memory holds keys: no core dump, no ptrace by the same user.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return k, os.NewSyscallError("prctl", err)
	}
	if k.held = os.NewFile(heldFD, "held"); k.held == nil {
		return k, errors.New("the keeper is started by wgjail up, not by hand")
	}
	unix.CloseOnExec(heldFD)
	if _, err := k.held.WriteString(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		return k, fmt.Errorf("register the keeper: %w", err)
	}
	s, err := loadState(name)
	if err != nil {
		return k, err
	}
	k.state = s
	if k.ns, err = s.openNamespace(); err != nil {
		return k, err
	}
	if s.Backend == Userspace {
		k.tunnel, err = startTunnel(k.ns, name, s.MTU, log)
	}
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
