package main

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/world"
)

// Every command in the README and in docs is run, and prints what the page
// says: "…" there stands for what differs, alone in a line for any lines.
//
// Blocks of "console" are run here, in a lab, one page after the other from top
// to bottom. Those of "console boot" need a whole system: internal/boot runs them.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 8 {
		t.Fatalf("pages: %q (%v)", pages, err)
	}
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := consoleBlocks(string(text))
		if len(blocks) == 0 {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) {
			world.Run(t, func(t *testing.T, w *world.World) {
				d := newDocs(t, w)
				d.shortened = strings.Contains(string(text), "(Shortened")
				if strings.Contains(string(text), "podman run") {
					d.engines(t)
				}
				for _, b := range blocks {
					d.run(t, b)
				}
			})
		})
	}
}

// A docCommand is a command on a page, and what the page says it prints.
type docCommand struct{ line, prints string }

// consoleBlocks returns the blocks of commands of a page.
func consoleBlocks(page string) (blocks [][]docCommand) {
	for _, m := range regexp.MustCompile("(?ms)^```console\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		var block []docCommand
		for line := range strings.Lines(m[1]) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				command, _, _ = strings.Cut(command, "  #")
				block = append(block, docCommand{line: strings.TrimSpace(command)})
			} else if len(block) > 0 {
				block[len(block)-1].prints += line
			}
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// docs is a lab in which a reader sits: with the provider's file in his folder,
// sudo, and an internet on the other side of the tunnel.
type docs struct {
	*lab
	dir       string
	shortened bool // the page shows less than commands print, and other numbers
	stranger  int  // a process with a network of its own, which is no jail
	rootConf  string
	reader    *world.User
}

func newDocs(t *testing.T, w *world.World) *docs {
	l := newLab(t, w)
	d := &docs{lab: l, rootConf: l.conf}
	stranger := w.Namespace(t, "stranger")
	stranger.Addr(t, "lo", "10.9.9.9/32")
	d.stranger = stranger.Start(t, exec.Command("sleep", "1000")).Pid
	bin := filepath.Join(t.TempDir(), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "sudo"), []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, name := range []string{"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"} {
		t.Setenv(name, "")
	}
	const site = "203.0.113.8"
	l.Exit.Addr(t, "lo", site+"/32")
	l.Provider.SetName("example.com", netip.MustParseAddr(site))
	l.Provider.SetName("whoami.example.com", netip.MustParseAddr(world.InternetV4))
	d.https(t, site)
	l.fakeGateway(t, 40123)
	return d
}

// become has root or an ordinary user sit there, each with the provider's file at
// home.
func (d *docs) become(t *testing.T, root bool) {
	t.Helper()
	if root {
		d.user, d.conf = nil, d.rootConf
	} else {
		if d.reader == nil {
			d.reader = d.w.User(t, "reader")
		}
		d.user = d.reader
		d.conf = d.Conf(t, "vpn")
	}
	d.dir = filepath.Dir(d.conf)
}

// https serves https://example.com, with a certificate that curl trusts here.
func (d *docs) https(t *testing.T, addr string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "an example") }))
	server.Listener.Close()
	server.StartTLS() // for its certificate
	cert := server.TLS.Certificates[0]
	server.Close()
	// The lab echoes at port 443 of every address.
	d.Exit.Run(t, "iptables", "-t", "nat", "-A", "PREROUTING", "-d", addr, "-p", "tcp", "--dport", "443", "-j", "DNAT", "--to-destination", addr+":8443")
	l, err := d.Exit.Listen("tcp4", ":8443")
	if err != nil {
		t.Fatal(err)
	}
	real := &http.Server{Handler: server.Config.Handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	go real.ServeTLS(l, "", "")
	t.Cleanup(func() { real.Close() })
	file := filepath.Join(os.TempDir(), "ca.pem") // where all may read it
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CURL_CA_BUNDLE", file)
}

// notHere are commands that need what a lab has not: the internet, an SSH server, or the source.
var notHere = regexp.MustCompile(`^(make|go|ssh) |am\.i\.mullvad\.net`)

// goesOn reports whether a command goes on until Ctrl-C.
func goesOn(line string) bool {
	serves := regexp.MustCompile(`wgjail (forward|proxy)\b`).MatchString(line) && !regexp.MustCompile(` (-d|--stop|\|\|)( |$)`).MatchString(line)
	return serves || strings.Contains(line, "wgjail run ") || strings.Contains(line, "status --watch")
}

// run runs a block, as an ordinary user if it has wgjail do something without sudo. What goes on until Ctrl-C is interrupted when the next such
// command comes, or the block ends. A block that needs a jail and makes none
// gets one.
func (d *docs) run(t *testing.T, block []docCommand) {
	t.Helper()
	needs, makes, plain, sudo := false, false, false, false
	for _, c := range block {
		plain = plain || strings.HasPrefix(c.line, "wgjail ")
		sudo = sudo || strings.Contains(c.line, "sudo ")
		needs = needs || regexp.MustCompile(`wgjail (forward|exec|proxy)\b`).MatchString(c.line) && !regexp.MustCompile(`--netns|\|\| true`).MatchString(c.line)
		makes = makes || regexp.MustCompile(`wgjail (up|run)\b`).MatchString(c.line)
	}
	d.become(t, sudo || !plain)
	if needs && !makes {
		d.up(t)
		defer d.do(t, "down", "vpn")
	}
	var going *world.Process
	stop := func() {
		if going != nil {
			mustEnd(t, going)
			going = nil
		}
	}
	defer stop()
	for _, c := range block {
		c.line = strings.ReplaceAll(c.line, "/proc/4711/", fmt.Sprintf("/proc/%d/", d.stranger))
		switch {
		case notHere.MatchString(c.line):
		case goesOn(c.line):
			stop()
			going = d.Host.Start(t, d.shell("exec "+c.line))
			world.Eventually(t, "what the page says of "+c.line, func() error { return d.printed(c, going.Output()) })
		case strings.HasPrefix(c.line, "curl "): // what was started a moment ago answers in a moment
			world.Eventually(t, c.line, func() error { return d.call(t, c) })
		default:
			if err := d.call(t, c); err != nil {
				t.Errorf("$ %s\n%v", c.line, err)
			}
		}
	}
}

// mustEnd interrupts what goes on until Ctrl-C.
func mustEnd(t *testing.T, going *world.Process) {
	t.Helper()
	going.Signal(t, unix.SIGINT)
	select {
	case <-going.Done():
	case <-time.After(time.Minute): // a page should not make a reader wait
		t.Errorf("it does not end on Ctrl-C, and has printed:\n%s", going.Output())
	}
}

func (d *docs) shell(line string) *exec.Cmd {
	cmd := exec.Command("bash", "-c", line)
	if d.user != nil {
		cmd = d.user.Command("bash", "-c", line)
	}
	cmd.Dir = d.dir
	return cmd
}

// call runs a command to its end.
func (d *docs) call(t *testing.T, c docCommand) error {
	cmd := d.shell(c.line)
	cmd.Args = append([]string{"timeout", "60"}, cmd.Args...) // a page should not make a reader wait
	cmd.Path, _ = exec.LookPath("timeout")
	r, err := runIn(d.Host, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if r.status != 0 {
		return fmt.Errorf("exit status %d, and it printed:\n%s%s", r.status, r.out, r.err)
	}
	return d.printed(c, r.out+r.err)
}

// printed reports whether a command has printed what the page says.
func (d *docs) printed(c docCommand, got string) error {
	// Pages show the kernel's WireGuard, the README the embedded one.
	got = strings.ReplaceAll(got, "userspace WireGuard", "kernel WireGuard")
	want := strings.ReplaceAll(c.prints, "userspace WireGuard", "kernel WireGuard")
	if !asPrinted(want, d.shortened).MatchString(got) || goesOn(c.line) && !strings.Contains(got, "\n") {
		return fmt.Errorf("it printed:\n%s\nwanted:\n%s", got, want)
	}
	return nil
}

// asPrinted turns what a page says into a pattern. On a shortened page there may
// be more lines, and numbers differ.
func asPrinted(text string, shortened bool) *regexp.Regexp {
	const lines = `(?:.*\n)*`
	if text == "" {
		return regexp.MustCompile("")
	}
	pattern := ""
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		line = strings.TrimRight(line, "\n")
		if line == "…" {
			pattern += lines
			continue
		}
		line = strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*")
		if shortened {
			line = regexp.MustCompile(`[KMG]?i?B\b`).ReplaceAllString(line, `[KMGi]*B`)
			line = lines + regexp.MustCompile(`\d(?:\\?[-.:\d])*`).ReplaceAllString(line, `\d[-.:\d]*`)
		}
		pattern += line + `\n`
	}
	if shortened {
		pattern += lines
	}
	return regexp.MustCompile(`^` + pattern + `$`)
}

// The patterns match what they should and nothing else.
func TestAsPrinted(t *testing.T) {
	for _, c := range []struct {
		page, got string
		shortened bool
		want      bool
	}{
		{"up\n", "up\n", false, true},
		{"up\n", "down\n", false, false},
		{"up\n", "up\nmore\n", false, false},
		{"a … c\n", "a b c\n", false, true},
		{"a\n…\nz\n", "a\nb\nc\nz\n", false, true},
		{"a\n…\nz\n", "a\nz\n", false, true},
		{"a\n…\nz\n", "a\nb\n", false, false},
		{"", "whatever", false, true},
		{"1 open of 25.4 KiB\n", "first\n17 open of 3 B\nlast\n", true, true},
		{"[2026-11-23 21:00] x\n", "[2027-01-02 03:04] x\n", true, true},
		{"1 open\n", "one open\n", true, false},
	} {
		if got := asPrinted(c.page, c.shortened).MatchString(c.got); got != c.want {
			t.Errorf("%q as %q (shortened: %v): %v, want %v", c.got, c.page, c.shortened, got, c.want)
		}
	}
}
