package jail

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// A tunnel is the embedded WireGuard of one jail: its TUN is in the jail, its
// UDP socket where the process is, and wg(8) and wgctrl reach it through the
// socket /var/run/wireguard/NAME.sock.
type tunnel struct {
	dev  *device.Device
	uapi net.Listener
}

// startTunnel makes the tunnel, not yet configured. The TUN is persistent: if
// this process dies the interface stays, with its addresses and routes and
// without a carrier, until another process takes it over or Down removes it.
func startTunnel(ns *netnsx.Namespace, name string, mtu int, log *slog.Logger) (*tunnel, error) {
	var t tun.Device
	err := ns.Do(func() (err error) {
		t, err = tun.CreateTUN(name, mtu)
		return err
	})
	if err != nil {
		return nil, tunError(err)
	}
	if err := setPersistent(t.File()); err != nil {
		t.Close()
		return nil, fmt.Errorf("keep the TUN interface: %w", err)
	}
	dev := device.NewDevice(fixedMTU{t, mtu}, conn.NewDefaultBind(), deviceLogger(log))
	// The first event of the TUN comes while the link is still down.
	if err := dev.Up(); err != nil {
		dev.Close()
		return nil, fmt.Errorf("open the tunnel's UDP socket: %w", err)
	}
	uapi, err := listenUAPI(name)
	if err != nil {
		dev.Close()
		return nil, err
	}
	tn := &tunnel{dev, uapi}
	go tn.serveUAPI()
	return tn, nil
}

// setPersistent lets the interface outlive its descriptor. It does not use
// File.Fd, which would make the descriptor blocking.
func setPersistent(f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = c.Control(func(fd uintptr) { ioctlErr = unix.IoctlSetInt(int(fd), unix.TUNSETPERSIST, 1) })
	return errors.Join(err, ioctlErr)
}

func tunError(err error) error {
	if deviceErr := openDevice(); rootless() && deviceErr != nil {
		return hint.Wrap(fmt.Errorf("make the TUN interface: %w", deviceErr),
			"%s; wgjail check --rootless says whether more is missing", noDevice(deviceErr).do)
	}
	err = fmt.Errorf("make the TUN interface: %w", err)
	if missing("/dev/net/tun") { // the library's error is a text alone
		return hint.Wrap(err, "the device /dev/net/tun is needed: modprobe tun, or give the container the device")
	}
	return err
}

func listenUAPI(name string) (net.Listener, error) {
	if err := uapiFree(name); err != nil {
		return nil, err
	}
	f, err := ipc.UAPIOpen(name)
	if err != nil {
		return nil, fmt.Errorf("open WireGuard's control socket: %w", err)
	}
	l, err := ipc.UAPIListen(name, f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen on WireGuard's control socket: %w", err)
	}
	return l, nil
}

func uapiPath(name string) string { return filepath.Join(uapiDir, name+".sock") }

// uapiFree reports whether no living process answers at the jail's control
// socket: names there are the same in all namespaces.
func uapiFree(name string) error {
	c, err := net.Dial("unix", uapiPath(name))
	if err != nil {
		return nil
	}
	c.Close()
	return hint.Wrap(fmt.Errorf("another WireGuard answers at %s", uapiPath(name)),
		"an interface of this name is run by another program: end it, or give the configuration file another name")
}

func (t *tunnel) serveUAPI() {
	for {
		c, err := t.uapi.Accept()
		if err != nil {
			return
		}
		go t.dev.IpcHandle(c)
	}
}

// ended returns a channel that is closed when the tunnel has ended by itself,
// because its interface was removed.
func (t *tunnel) ended() <-chan struct{} {
	if t == nil {
		return nil
	}
	return t.dev.Wait()
}

// close ends the tunnel and its control socket. The interface stays.
func (t *tunnel) close() {
	t.uapi.Close()
	t.dev.Close()
}

// configureUserspace sends the configuration to the tunnel that the keeper
// has made.
func configureUserspace(ns *netnsx.Namespace, name string, dev wgtypes.Config) error {
	err := withDevices(ns, func(c *wgctrl.Client) error { return c.ConfigureDevice(name, dev) })
	if err != nil {
		return fmt.Errorf("configure WireGuard: %w", uapiError(err))
	}
	return nil
}

// uapiError finds the system's error in what the control socket answered,
// which wgctrl passes on as text.
func uapiError(err error) error {
	_, number, found := strings.Cut(err.Error(), "errno=-")
	if n, atoiErr := strconv.Atoi(number); found && atoiErr == nil {
		return unix.Errno(n)
	}
	return err
}

// fixedMTU answers the question that tun asks by name in the namespace of
// whichever thread asks, where the name means nothing.
type fixedMTU struct {
	tun.Device
	mtu int
}

func (d fixedMTU) MTU() (int, error) { return d.mtu, nil }

func deviceLogger(log *slog.Logger) *device.Logger {
	return &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { log.Error(fmt.Sprintf(format, args...)) },
	}
}
