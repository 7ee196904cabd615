package report

import (
	"bytes"
	"encoding/json"
	"html"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

func TestMain(m *testing.M) { world.Main(m) }

// probeScript looks at the page when it stands, and leaves what it has seen in
// the document.
const probeScript = `<script>
const blocked = [];
document.addEventListener('securitypolicyviolation', e => blocked.push(e.blockedURI));
addEventListener('load', () => setTimeout(() => { // of the browser's virtual time
  const drawn = [...document.querySelectorAll('canvas')].map(c => {
    const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    const seen = new Set();
    for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 128) seen.add(pixels.slice(i, i + 3).join());
    return seen.size;
  });
  const pre = document.createElement('pre');
  pre.id = 'probe';
  pre.textContent = JSON.stringify({
    drawn, blocked, loaded: performance.getEntriesByType('resource').map(e => e.name),
    back: getComputedStyle(document.body).backgroundColor, wide: document.documentElement.scrollWidth > innerWidth,
  });
  document.body.append(pre);
}, 1000));
</script>`

// A probed is what the script has seen.
type probed struct {
	Drawn   []int    // colours on each canvas
	Blocked []string // what the page's policy did not let it load
	Loaded  []string // what it has loaded
	Back    string
	Wide    bool // it can be scrolled sideways

	requests []string // what the server was asked for
}

var probeText = regexp.MustCompile(`<pre id="probe">(.*)</pre>`)

// look shows a page to a real browser.
func look(t *testing.T, page, scheme string) probed {
	t.Helper()
	var p probed
	var mu sync.Mutex
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		p.requests = append(p.requests, r.URL.Path)
		w.Write([]byte(strings.Replace(page, "<style>", probeScript+"<style>", 1)))
	})}
	go server.Serve(l)
	defer server.Close()
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--user-data-dir="+t.TempDir(), "--window-size=1200,900", "--blink-settings=preferredColorScheme="+scheme,
		"--virtual-time-budget=5000", "--dump-dom", "http://"+l.Addr().String()+"/")
	out, err := cmd.Output() // on the other one it complains of what is not in this world
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	found := probeText.FindSubmatch(out)
	if found == nil {
		t.Fatalf("the page did not come to stand:\n%.3000s", out)
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(string(found[1]))), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

const darkScheme, lightScheme = "0", "1" // of Chromium's setting

func samplePage(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	if err := sample().HTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The page draws all its charts in a real browser, light and dark, and loads
// nothing but itself.
func TestPage(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		if _, err := exec.LookPath("chromium"); err != nil {
			world.Skip(t, "needs chromium: run internal/ci/install")
		}
		page := samplePage(t)
		light, dark := look(t, page, lightScheme), look(t, page, darkScheme)
		for _, p := range []probed{light, dark} {
			// Rate, latency and cost of one workload, rate of the other.
			if len(p.Drawn) != 4 || slices.Min(p.Drawn) < 4 {
				t.Errorf("colours on the canvases: %v, want several on each of 4", p.Drawn)
			}
			if len(p.Blocked)+len(p.Loaded) > 0 || !slices.Equal(p.requests, []string{"/"}) {
				t.Errorf("it wanted %q, loaded %q, asked for %q; want nothing but itself", p.Blocked, p.Loaded, p.requests)
			}
			if p.Wide {
				t.Error("it is wider than its window")
			}
		}
		if light.Back != "rgb(245, 246, 248)" || dark.Back != "rgb(18, 21, 27)" {
			t.Errorf("its background is %s and %s, want a light and a dark one", light.Back, dark.Back)
		}
		// The same eyes see what is wrong.
		p := look(t, strings.Replace(page, "</main>", `<img src="http://127.0.0.1:9/x.png"></main>`, 1), lightScheme)
		if !slices.Equal(p.Blocked, []string{"http://127.0.0.1:9/x.png"}) {
			t.Errorf("it blocked %q, want the picture from elsewhere", p.Blocked)
		}
		p = look(t, strings.Replace(page, "new Chart(", "new Object(", 1), lightScheme)
		if slices.Max(p.Drawn) > 0 {
			t.Errorf("without charts the canvases have colours: %v", p.Drawn)
		}
	})
}

// What a machine or a program says of itself is text, not markup.
func TestPageEscapes(t *testing.T) {
	r := sample()
	r.Candidates[3].Missing = `<script>alert(1)</script>`
	r.Candidates[1].Name = `</script><b>`
	var b bytes.Buffer
	if err := r.HTML(&b); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"<script>alert", "</script><b>", "A <CPU>"} {
		if strings.Contains(b.String(), text) {
			t.Errorf("%q is in the page as it is", text)
		}
	}
	if strings.Contains(b.String(), "sourceMappingURL") {
		t.Error("the page names a file for debuggers")
	}
}

// The library is the one that its note says, with its licence.
func TestChartLibrary(t *testing.T) {
	for _, text := range []string{"Chart.js v4.6.1", "MIT License"} {
		if !strings.Contains(chartJS[:400], text) {
			t.Errorf("no %q at its beginning", text)
		}
	}
	licence, err := os.ReadFile("assets/chart.LICENSE.md")
	if err != nil || !strings.Contains(string(licence), "The MIT License") {
		t.Errorf("its licence is %q, %v", licence, err)
	}
}
