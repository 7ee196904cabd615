package arrows

// anywhere and inTests stand for folders in a rule's list.
const (
	anywhere = "*"     // every folder
	inTests  = "_test" // every test file
)

const (
	unix = "golang.org/x/sys/unix"

	netnsx   = "internal/netnsx"
	userns   = "internal/userns"
	world    = "internal/world"
	provider = "internal/provider"
	machine  = "internal/machine"
	dialx    = "internal/dialx"
	resolver = "internal/resolver"
	portmap  = "internal/portmap"
	proxy    = "internal/proxy"
	hint     = "internal/hint"
	fault    = "internal/fault"
	filelock = "internal/filelock"
	nft      = "internal/nft"
	command  = "cmd/wgjail"
)

// layout is what the module's own packages may do.
var layout = Rules{
	Module: "github.com/wgjail/wgjail",

	Packages: map[string][]string{
		hint:              {},
		netnsx:            {},
		userns:            {},
		"relay":           {hint},
		filelock:          {},
		nft:               {netnsx},
		"veth":            {netnsx, nft, filelock, hint},
		dialx:             {},
		resolver:          {},
		portmap:           {},
		proxy:             {"relay", dialx, resolver, hint},
		"jail":            {"relay", "veth", proxy, dialx, resolver, portmap, netnsx, userns, nft, filelock, hint},
		fault:             {},
		provider:          {netnsx, hint},
		machine:           {},
		world:             {machine, netnsx, hint, provider},
		"bench":           {"jail", "relay", "veth", machine, netnsx, provider, hint},
		"bench/load":      {},
		"bench/stats":     {},
		"bench/report":    {"bench/stats"},
		command:           {"jail", "relay", "veth", "bench", machine, netnsx, provider, hint},
		"internal/arrows": {},
	},
	Tests: []string{world, provider, fault, netnsx, hint},

	Homes: map[string][]string{
		// Libraries.
		"github.com/chromedp/chromedp":            {inTests},
		"github.com/coreos/go-iptables":           {"veth"},
		"github.com/coreos/go-systemd":            {command},
		"github.com/HdrHistogram/hdrhistogram-go": {"bench"},
		"github.com/google/go-cmp":                {inTests},
		"github.com/google/nftables":              {nft, "jail", "veth"}, // rules inside the jail
		"github.com/pires/go-proxyproto":          {"relay", inTests},
		"github.com/prometheus/client_golang":     {command},
		"github.com/rogpeppe/go-internal":         {inTests},
		"github.com/spf13/cobra":                  {command},
		"github.com/spf13/pflag":                  {command},
		"github.com/vishvananda/netlink":          {"jail", "veth", "bench", machine, provider, world, inTests},
		"github.com/vishvananda/netns":            {netnsx},
		"golang.zx2c4.com/wireguard":              {"jail", provider, inTests},
		"golang.org/x/net":                        {provider, resolver, inTests}, // DNS messages; a SOCKS client
		"golang.org/x/sys":                        {anywhere},

		"kernel.org/pub/linux/libs/security/libcap/psx": {"jail"},

		// A logger is passed in (log/slog), and only tests test.
		"log":      {},
		"log/slog": {anywhere},
		"testing":  {inTests, world},
	},

	Names: map[string][]string{
		"runtime.LockOSThread":   {netnsx, userns, command}, // userns: while it forks; the command pins its main goroutine to the main thread
		"runtime.UnlockOSThread": {netnsx, userns},
		unix + ".Setns":          {netnsx},
		unix + ".SYS_SETNS":      {netnsx, userns, fault}, // userns: in a forked child; fault: to make it fail
		unix + ".Unshare":        {netnsx, "jail"},        // jail: the mount namespace of a program that replaces the process
		unix + ".SYS_UNSHARE":    {netnsx, userns, fault, inTests},
		unix + ".CLONE_NEWUSER":  {userns, inTests},
		unix + ".CLONE_NEWNET":   {netnsx, machine, inTests}, // for a child process
		"syscall.Unshare":        {},
		"syscall.SYS_UNSHARE":    {},
		"syscall.CLONE_NEWNET":   {inTests},
	},
}
