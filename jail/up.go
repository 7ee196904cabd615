package jail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// UpOptions say how to make a jail.
type UpOptions struct {
	Backend    Backend      // "" is Auto
	AllowHooks bool         // run the configuration's commands, inside the jail
	Log        *slog.Logger // told each step, at debug level; nil is silent

	// Port has the keeper ask the provider for a port. Nil asks for none.
	Port *PortRequest

	// Started is when the caller began. A jail that is complete, but was not
	// by then, has been made by a rival: Up then fails with ErrBusy instead
	// of reporting ErrUp, so that one of several wins. Zero: no rivals.
	Started time.Time

	// RepairOnly makes no jail that is not there: the error is ErrNotUp then.
	RepairOnly bool

	// KeeperArgs are options for the command KeeperCommand.
	KeeperArgs []string

	// Waiting, if not nil, is called when an endpoint's name takes long to look
	// up, with the name.
	Waiting func(host string)
}

// A Jail is what Up returns.
type Jail struct {
	Name     string
	Backend  Backend
	MTU      int      // bytes
	Repaired []string // what was missing of a jail that was up already
	// Keeper is the jail's keeper if this call started it; else nil.
	Keeper *Background
}

// ErrUp is the error of Up for a jail that is up and complete.
var ErrUp = errors.New("is already up")

// Up makes the jail that cfg describes, or repairs it if a part is missing. It
// resolves endpoints and opens UDP sockets in the namespace of the process, the
// host's. When it returns, programs can run in the jail.
//
// If a step fails, a jail that did not exist before is removed again. The error
// is ErrUp if there was nothing to do, and ErrBusy if another command is
// changing the jail.
func Up(ctx context.Context, cfg *Config, opts UpOptions) (*Jail, error) {
	if err := CheckName(cfg.Name); err != nil {
		return nil, err
	}
	if err := OnHost(); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	lock, err := lockJail(ctx, cfg.Name, false)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	m := &maker{cfg: cfg, opts: opts}
	before, err := loadState(cfg.Name)
	switch {
	case err == nil && !before.Complete.IsZero():
		return m.repair(ctx, before)
	case opts.RepairOnly:
		return nil, notUp(cfg.Name)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, err // programs may be in a jail of which nothing is known
	case err == nil || !missing(stateDir(cfg.Name)): // an up that was killed
		opts.Log.Debug("step", "do", "remove what an interrupted up left")
		if err := teardown(ctx, cfg.Name, opts.Log); err != nil {
			return nil, err
		}
	}
	return m.fresh(ctx)
}

// A maker makes or repairs one jail.
type maker struct {
	cfg       *Config
	opts      UpOptions
	state     *state
	ns        *netnsx.Namespace
	endpoints map[wgtypes.Key]netip.AddrPort
	keeper    *Background
	repairing bool
}

func (m *maker) fresh(ctx context.Context) (*Jail, error) {
	if err := m.prepare(ctx); err != nil {
		return nil, err
	}
	if err := m.free(); err != nil {
		return nil, err
	}
	j, err := m.make(ctx)
	if err != nil {
		if m.keeper != nil {
			m.keeper.Abandon()
		}
		// The failure is what the user must hear; a cancelled context must
		// not keep the remains.
		return nil, errors.Join(err, teardown(context.WithoutCancel(ctx), m.cfg.Name, m.opts.Log))
	}
	return j, nil
}

// make does every step in order. Each one finds done what an earlier call did,
// so that making and repairing are the same.
func (m *maker) make(ctx context.Context) (*Jail, error) {
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"write down what is made", m.reserve},
		{"prepare shared folders", func(context.Context) error { return prepareShared() }},
		{"make the namespace", m.makeNamespace},
		{"set the jail's sysctls", func(context.Context) error { return m.ns.Do(func() error { return applySettings(settings) }) }},
		{"set lo up", func(context.Context) error { return bringUpLoopback(m.ns, m.state.Addresses) }},
		{"set the firewall rules", func(context.Context) error { return applyRules(m.ns, m.state, m.state.openPortNow()) }},
		{"make the tunnel", m.makeTunnel},
		{"write resolv.conf", func(context.Context) error { return m.state.writeDNS() }},
		{"run PreUp", func(ctx context.Context) error { return m.hooks(ctx, preUp) }},
		{"set addresses and routes", m.bringUp},
		{"see what the path lets through", m.probePath},
		{"put back the rules of forwards", m.restoreRules},
		{"run PostUp", func(ctx context.Context) error { return m.hooks(ctx, postUp) }},
		{"write down that it is complete", m.complete},
	} {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("jail %s: interrupted", m.cfg.Name)
		}
		m.step(s.what)
		if err := s.do(ctx); err != nil {
			return nil, m.explain(fmt.Errorf("jail %s: %w", m.cfg.Name, err))
		}
	}
	m.ns.Close()
	return &Jail{Name: m.cfg.Name, Backend: m.state.Backend, MTU: m.state.MTU, Keeper: m.keeper}, nil
}

// hooks runs the commands of one moment; a repair is none.
func (m *maker) hooks(ctx context.Context, when hook) error {
	if m.repairing {
		return nil
	}
	return m.state.runHooks(ctx, when)
}

// explain adds the way out of what the configuration alone tells about.
func (m *maker) explain(err error) error {
	if errors.Is(err, unix.EADDRINUSE) && m.cfg.ListenPort != 0 {
		return hint.Wrap(err, "another program has UDP port %d (see: ss -lunp); leave ListenPort out, or change it", m.cfg.ListenPort)
	}
	return err
}

func (m *maker) step(what string) { m.opts.Log.Debug("step", "do", what, "jail", m.cfg.Name) }

func (m *maker) reserve(context.Context) error {
	if err := os.MkdirAll(forwardDir(m.cfg.Name), 0o700); err != nil {
		return err
	}
	return m.state.save()
}

func (m *maker) makeNamespace(context.Context) error {
	ns, err := netnsx.OpenNamed(m.cfg.Name)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, netnsx.ErrNotNamespace) {
		if err := netnsx.Remove(m.cfg.Name); err != nil { // a name without its mount
			return err
		}
		if path := m.state.nameless(); path != "" {
			ns, err = netnsx.Attach(m.cfg.Name, path)
		} else {
			ns, err = netnsx.Create(m.cfg.Name)
		}
	}
	if err != nil {
		return err
	}
	m.ns = ns
	if m.state.Namespace == ns.ID() {
		return nil
	}
	m.state.Namespace = ns.ID()
	return m.state.save()
}

// makeTunnel makes the interface with its keys and peers, and the keeper. The
// kernel's interface comes first, the userspace one comes with its keeper.
func (m *maker) makeTunnel(ctx context.Context) error {
	dev := deviceConfig(m.cfg, m.endpoints)
	switch there := m.linkThere(); {
	case there:
	case m.state.Backend == Kernel:
		m.step("make the interface on the host and move it")
		if err := makeKernelLink(m.ns, m.cfg.Name, m.state.MTU, dev); err != nil {
			return err
		}
	default: // a keeper whose interface was taken away is of no use
		if err := stopHolder(ctx, keeperFile(m.cfg.Name), 2*time.Second); err != nil {
			return err
		}
	}
	m.step("start the keeper")
	keeper, err := startKeeper(m.cfg.Name, m.opts.KeeperArgs)
	if errors.Is(err, ErrBusy) {
		return nil // it lives, and with it the userspace tunnel
	}
	if err != nil {
		return err
	}
	m.keeper = keeper
	if m.state.Backend == Userspace {
		m.step("configure the tunnel")
		return configureUserspace(m.ns, m.cfg.Name, dev)
	}
	return nil
}

func (m *maker) complete(context.Context) error {
	m.state.Complete = time.Now()
	if err := m.state.save(); err != nil {
		return err
	}
	if m.keeper == nil {
		return nil
	}
	m.step("let the keeper go on")
	return m.keeper.Commit()
}
