package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"golang.org/x/net/websocket"

	"github.com/wgjail/wgjail/internal/world"
)

// A browser is a headless Chromium in the LAN.
type browser struct{ ctx context.Context }

// browse starts a browser in a node, until the test ends.
func browse(t *testing.T, n *world.Node) *browser {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1000, 600),
		chromedp.Env("no_proxy=*"), // it is in nobody's proxy settings
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) {
			cmd.Args = append([]string{"nsenter", "--net=/run/netns/" + n.Name, cmd.Path}, cmd.Args[1:]...)
			cmd.Path, _ = exec.LookPath("nsenter")
		}))
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	return &browser{ctx}
}

func (b *browser) do(t *testing.T, what string, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.screenshot(t, "failed")
		t.Fatalf("%s: %v", what, err)
	}
}

// sees waits until an expression of JavaScript is true on the page.
func (b *browser) sees(t *testing.T, what, expression string) {
	t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](expression)); err != nil {
		b.screenshot(t, "failed")
		t.Fatalf("%s: %v", what, err)
	}
}

// screenshot keeps a picture of the page in the folder WGJAIL_TEST_SCREENSHOTS,
// if there is one.
func (b *browser) screenshot(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("WGJAIL_TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// A browser in the LAN uses the web page of a jailed Transmission, by the relay
// and by veth: it adds a torrent, which appears, and pauses it, which shows.
func TestBrowserUsesTransmission(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		l.up(t)
		program := l.start(t, append([]string{"exec", "vpn", "--"}, transmissionArgs(t)...)...)
		program.WaitOutput(t, "Serving RPC and Web requests")
		l.do(t, "forward", "-d", "9091")
		l.do(t, "forward", "-d", "--mode", "veth", "9092:9091")
		b := browse(t, l.LAN)
		for i, mode := range []struct{ name, port string }{{"relay", "9091"}, {"veth", "9092"}} {
			b.do(t, mode.name, chromedp.Navigate("http://"+world.HostLANV4+":"+mode.port+"/transmission/web/"),
				chromedp.WaitVisible("#toolbar-open"), chromedp.Click("#toolbar-open"), chromedp.WaitVisible("#torrent_upload_url"),
				chromedp.SendKeys("#torrent_upload_url", fmt.Sprintf("magnet:?xt=urn:btih:%040x&dn=added-by-%s", i+1, mode.name)),
				chromedp.Click("#upload_confirm_button"))
			b.sees(t, "the torrent", `[...document.querySelectorAll(".torrent_name")].some(e => e.textContent.includes("added-by-`+mode.name+`"))`)
			b.do(t, "pause", chromedp.Click("#toolbar-pause-all"))
			b.sees(t, "paused", `[...document.querySelectorAll(".torrent_peer_details")].every(e => e.textContent.includes("Paused"))`)
			b.screenshot(t, "transmission-"+mode.name)
		}
		l.do(t, "down", "--kill", "vpn")
		program.Wait()
	})
}

// livePage says what comes by WebSocket and by server-sent events.
const livePage = `<!doctype html><meta charset=utf-8><title>live</title><body style="font:20px sans-serif">
<p>WebSocket: <b id=socket></b></p><p>Events: <b id=events></b></p><button id=send>send</button><script>
const socket = new WebSocket("ws://" + location.host + "/socket"), events = new EventSource("/events");
const show = (id, text) => document.getElementById(id).textContent += text + " ";
socket.onmessage = m => show("socket", m.data);
events.onmessage = m => show("events", m.data);
document.getElementById("send").onclick = () => socket.send("pressed");
</script>`

// What keeps a connection open and speaks now and then works through a forward.
func TestBrowserLivePage(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		l := newLab(t, w)
		jail := l.up(t)
		host := map[string]string{"relay": world.HostLANV4 + ":8080", "veth": world.HostLANV4 + ":8081"}
		more := map[string]chan string{host["relay"]: make(chan string, 1), host["veth"]: make(chan string, 1)}
		mux := http.NewServeMux()
		mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, livePage) })
		mux.Handle("/socket", websocket.Handler(func(c *websocket.Conn) {
			fmt.Fprint(c, "welcome")
			io.Copy(c, c)
		}))
		mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for text := "first"; ; {
				fmt.Fprintf(w, "data: %s\n\n", text)
				w.(http.Flusher).Flush()
				select {
				case text = <-more[r.Host]:
				case <-r.Context().Done():
					return
				}
			}
		})
		listener, err := jail.Listen("tcp", "[::]:8080")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: mux}
		go server.Serve(listener)
		defer server.Close()
		l.do(t, "forward", "-d", "8080")
		l.do(t, "forward", "-d", "--mode", "veth", "8081:8080")
		b := browse(t, l.LAN)
		for mode, host := range host {
			b.do(t, mode, chromedp.Navigate("http://"+host+"/"))
			b.sees(t, "the first event", `document.getElementById("events").textContent == "first "`)
			b.sees(t, "the socket's welcome", `document.getElementById("socket").textContent == "welcome "`)
			b.do(t, "press", chromedp.Click("#send"))
			b.sees(t, "the socket's echo", `document.getElementById("socket").textContent == "welcome pressed "`)
			more[host] <- "second"
			b.sees(t, "the second event", `document.getElementById("events").textContent == "first second "`)
			b.screenshot(t, "live-"+mode)
		}
	})
}
