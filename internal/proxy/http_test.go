package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// What a target gets of a request is what the client meant for it, and what the
// client gets is the response, with a connection that ends.
func TestHTTPRequestsAndResponses(t *testing.T) {
	for name, tt := range map[string]struct{ request, got, response, sent string }{
		"plain": {
			"GET http://x.test:PORT/a%20b?c=d HTTP/1.1\r\nHost: other.test\r\nAccept: */*\r\n\r\n",
			"GET /a%20b?c=d HTTP/1.1\r\nHost: x.test:PORT\r\nAccept: */*\r\nConnection: close\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
			"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
		},
		"what concerns the proxy alone": {
			"GET http://x.test:PORT HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nConnection: keep-alive, X-Hop, Host\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\nX-Hop: 1\r\nX-End: 2\r\nX-End: 3\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: x.test:PORT\r\nConnection: close\r\nX-End: 2\r\nX-End: 3\r\n\r\n",
			"HTTP/1.1 204 No Content\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
			"HTTP/1.1 204 No Content\r\nConnection: close\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
		},
		"a body": {
			"POST http://x.test:PORT/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
			"POST / HTTP/1.1\r\nHost: x.test:PORT\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		},
		"a body in chunks, with a trailer": {
			"PUT http://x.test:PORT/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n",
			"PUT / HTTP/1.1\r\nHost: x.test:PORT\r\nConnection: close\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n",
			"HTTP/1.1 413 Too Large\r\n\r\n",
			"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\n",
		},
		"interim responses": {
			"POST http://x.test:PORT/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody",
			"POST / HTTP/1.1\r\nHost: x.test:PORT\r\nConnection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody",
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\nto the end",
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end",
		},
		"an old client and server": {
			"GET http://x.test:PORT/ HTTP/1.0\r\n\r\n",
			"GET / HTTP/1.0\r\nHost: x.test:PORT\r\nConnection: close\r\n\r\n",
			"HTTP/1.0 200 OK\r\n\r\nold",
			"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nold",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 1)
			port := target(t, func(c *net.TCPConn) {
				b, _ := io.ReadAll(c) // the client has half-closed
				got <- string(b)
				io.WriteString(c, tt.response)
			})
			_, addr := serve(t, HTTP, nil)
			request := strings.ReplaceAll(tt.request, "PORT", port)
			if sent := say(t, addr, request); sent != tt.sent {
				t.Errorf("the client got\n%q, want\n%q", sent, tt.sent)
			}
			if want := strings.ReplaceAll(tt.got, "PORT", port); want != <-got {
				t.Errorf("the target did not get %q", want)
			}
		})
	}
}

// What is no request for a proxy gets an answer that says so, and the answer
// arrives although the client is still sending.
func TestHTTPRefuses(t *testing.T) {
	closed := listen(t, "127.0.0.1:0")
	closed.Close()
	quiet := target(t, func(*net.TCPConn) {})
	rude := target(t, func(c *net.TCPConn) { io.WriteString(c, "SSH-2.0-x\r\n\r\n") })
	_, addr := serve(t, HTTP, nil)
	more := strings.Repeat("x", 100<<10)
	for request, status := range map[string]int{
		"GET / HTTP/1.1\r\nHost: x.test\r\n\r\n":           400,
		"GET ftp://x.test/ HTTP/1.1\r\nHost: x\r\n\r\n":    400,
		"GET https://x.test/ HTTP/1.1\r\nHost: x\r\n\r\n":  400,
		"GET http:///x HTTP/1.1\r\nHost: x\r\n\r\n":        400,
		"CONNECT x.test HTTP/1.1\r\nHost: x\r\n\r\n":       400,
		"CONNECT x.test:0 HTTP/1.1\r\nHost: x\r\n\r\n":     400,
		"CONNECT x.test:99999 HTTP/1.1\r\nHost: x\r\n\r\n": 400,
		"nonsense\r\n\r\n": 400,
		"\x05\x01\x00":     400,
		"GET http://x.test/ HTTP/1.1\r\nHost: x\r\nA: " + more + "\r\n\r\n":              400,
		"CONNECT missing.test:80 HTTP/1.1\r\nHost: x\r\n\r\n":                            502,
		"CONNECT " + closed.Addr().String() + " HTTP/1.1\r\nHost: x\r\n\r\n":             502,
		"POST http://" + closed.Addr().String() + "/ HTTP/1.1\r\nHost: x\r\n\r\n" + more: 502,
		"GET http://127.0.0.1:" + quiet + "/ HTTP/1.1\r\nHost: x\r\n\r\n":                502,
		"GET http://127.0.0.1:" + rude + "/ HTTP/1.1\r\nHost: x\r\n\r\n":                 502,
	} {
		answer := say(t, addr, request)
		if !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", status)) || !strings.Contains(answer, "\r\n\r\nwgjail: ") || strings.Count(answer, "\n\n") > 0 {
			t.Errorf("%.80q: %q, want %d", request, answer, status)
		}
	}
}

// net/http's client and server understand each other through the proxy, with
// large bodies both ways, and after an answer that comes before the request is
// over.
func TestHTTPLargeBodies(t *testing.T) {
	data := make([]byte, 8<<20)
	rand.Read(data)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" { // the response begins first, and echoes what is still coming
			http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
		}
		io.Copy(w, r.Body)
	}))
	defer server.Close()
	s, addr := serve(t, HTTP, nil)
	client := http.Client{Transport: &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr}),
	}}
	for _, path := range []string{"/", "/early"} {
		for _, body := range []io.Reader{bytes.NewReader(data), io.MultiReader(bytes.NewReader(data))} { // with a length, and in chunks
			res, err := client.Post(strings.Replace(server.URL, "127.0.0.1", "x.test", 1)+path, "", body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes came back, %v; want the %d that were sent", path, len(got), err, len(data))
			}
			if !res.Close {
				t.Errorf("%s: the connection would be used again", path)
			}
		}
	}
	client.CloseIdleConnections()
	if n := s.Adopter.Stats().Load().Total; n != 4 {
		t.Errorf("%d connections were relayed, want 4", n)
	}
}

// What a client sends right after CONNECT is the target's first bytes.
func TestHTTPConnect(t *testing.T) {
	port := target(t, func(c *net.TCPConn) { io.Copy(c, c) })
	_, addr := serve(t, HTTP, nil)
	want := "HTTP/1.1 200 Connection established\r\n\r\nearly"
	if got := say(t, addr, "CONNECT x.test:"+port+" HTTP/1.1\r\nHost: x.test\r\n\r\nearly"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	c := dial(t, addr)
	fmt.Fprintf(c, "CONNECT [::ffff:127.0.0.1]:%s HTTP/1.0\r\n\r\n", port)
	r := bufio.NewReader(c)
	if got := head(r); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Fatalf("got %q", got)
	}
	for range 3 {
		io.WriteString(c, "ping")
		if b := make([]byte, 4); mustRead(t, r, b) != "ping" {
			t.Errorf("%q came back", b)
		}
	}
}

func mustRead(t *testing.T, r io.Reader, b []byte) string {
	t.Helper()
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}
