package provider

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/netnsx"
)

// The provider's own addresses in the tunnel, where its services are. Clients
// get the ones that follow.
var (
	ServerV4 = netip.MustParseAddr("10.64.0.1")
	ServerV6 = netip.MustParseAddr("fd64::1")
)

const (
	prefixV4, prefixV6 = 16, 64
	defaultMTU         = 1420
)

// Config says where a provider lives. The namespaces must outlive it.
type Config struct {
	Inside  *netnsx.Namespace // for the TUN device and the services; nil: where the process is
	Outside *netnsx.Namespace // for the UDP socket; nil: where the process is
	// Endpoint is where the server listens and what clients are told. Port 0: any
	// free one.
	Endpoint netip.AddrPort
	// AnyAddress listens on all addresses, with the library's own sockets: about
	// as fast as it gets, but it may answer from another address than it was asked
	// at. It is for benchmarks, and lasts until SetEndpoint.
	AnyAddress bool
	Interface  string       // the TUN's name; "": provider0
	MTU        int          // of the tunnel; 0: 1420
	Echo       []uint16     // where the services echo, besides EchoPort
	Record     bool         // keep the inner packets, for Packets and Find
	Log        *slog.Logger // nil: silent
}

// A Provider is a running server. Its methods may be called concurrently.
type Provider struct {
	*Services // what is behind the tunnel

	dev    *device.Device
	tun    *recorder
	bind   *bind
	public wgtypes.Key

	mu       sync.Mutex
	endpoint netip.AddrPort
	clients  int // ever added
	closed   bool
}

// New starts a provider. It needs the privileges to make a TUN device.
func New(cfg Config) (*Provider, error) {
	if cfg.Interface == "" {
		cfg.Interface = "provider0"
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	private, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return nil, fmt.Errorf("make the provider's key: %w", err)
	}
	var at netip.Addr
	if !cfg.AnyAddress {
		at = cfg.Endpoint.Addr()
	}
	p := &Provider{
		bind:     newBind(cfg.Outside, at),
		public:   private.PublicKey(),
		endpoint: cfg.Endpoint,
	}
	if p.tun, err = newTun(cfg); err != nil {
		return nil, err
	}
	p.dev = device.NewDevice(p.tun, p.bind, deviceLogger(cfg.Log))
	if err := p.start(cfg, private); err != nil {
		p.dev.Close() // closes the TUN as well
		return nil, err
	}
	return p, nil
}

// start makes a new device work.
func (p *Provider) start(cfg Config, private wgtypes.Key) error {
	err := p.dev.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=%d\n", private[:], cfg.Endpoint.Port()))
	if err != nil {
		return fmt.Errorf("configure the provider: %w", err)
	}
	if err := p.dev.Up(); err != nil {
		return fmt.Errorf("start the provider: %w", err)
	}
	p.endpoint = netip.AddrPortFrom(p.endpoint.Addr(), p.bind.listenPort())
	err = in(cfg.Inside, func() error { return configureLink(cfg.Interface) })
	if err != nil {
		return err
	}
	p.Services, err = Serve(cfg.Inside, cfg.Echo...)
	if err != nil {
		return err
	}
	p.SetName("whoami.test", ServerV4, ServerV6)
	return nil
}

// in calls fn in the namespace ns, or where the process is if ns is nil.
func in(ns *netnsx.Namespace, fn func() error) error {
	if ns == nil {
		return fn()
	}
	return ns.Do(fn)
}

// newTun makes the TUN device in its namespace.
func newTun(cfg Config) (*recorder, error) {
	var dev tun.Device
	err := in(cfg.Inside, func() (err error) {
		dev, err = tun.CreateTUN(cfg.Interface, cfg.MTU)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make the provider's interface: %w", err)
	}
	return newRecorder(dev, cfg.MTU, cfg.Record), nil
}

// configureLink gives the TUN device its addresses, in the calling thread's
// namespace.
func configureLink(name string) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	link, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	for _, prefix := range []netip.Prefix{netip.PrefixFrom(ServerV4, prefixV4), netip.PrefixFrom(ServerV6, prefixV6)} {
		addr, err := netlink.ParseAddr(prefix.String())
		if err != nil {
			return err
		}
		if prefix.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := nl.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %v to %s: %w", prefix, name, err)
		}
	}
	if err := nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// Endpoint returns where the server is now.
func (p *Provider) Endpoint() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.endpoint
}

// SetEndpoint moves the server: from now on it answers at this address and port
// alone. Port 0 keeps the port. After an error the server listens nowhere.
func (p *Provider) SetEndpoint(to netip.AddrPort) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if to.Port() == 0 {
		to = netip.AddrPortFrom(to.Addr(), p.endpoint.Port())
	}
	p.bind.move(to.Addr())
	// Opens the sockets again, even if the port is the same.
	if err := p.dev.IpcSet(fmt.Sprintf("listen_port=%d\n", to.Port())); err != nil {
		return fmt.Errorf("move the provider to %v: %w", to, err)
	}
	p.endpoint = to
	return nil
}

// Blackhole makes the server drop what it receives and send nothing, or ends
// that. The socket stays open, so that no ICMP error tells the client.
func (p *Provider) Blackhole(on bool) { p.bind.silent.Store(on) }

// Close stops the server and removes its interface. A second call does nothing.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	err := p.Services.Close()
	p.dev.Close()
	return errors.Join(err, p.tun.closed())
}

// deviceLogger passes the server's messages on.
func deviceLogger(log *slog.Logger) *device.Logger {
	if log == nil {
		return &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	}
	return &device.Logger{
		Verbosef: func(format string, args ...any) { log.Debug("provider: " + sentence(format, args)) },
		Errorf:   func(format string, args ...any) { log.Error("provider: " + sentence(format, args)) },
	}
}

func sentence(format string, args []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}
