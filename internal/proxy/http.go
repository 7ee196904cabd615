package proxy

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"
)

// httpStatuses says how HTTP calls a failure.
var httpStatuses = map[failure]int{
	failed: http.StatusBadGateway, denied: http.StatusForbidden, noRoute: http.StatusBadGateway,
	noHost: http.StatusBadGateway, refused: http.StatusBadGateway, timeout: http.StatusGatewayTimeout,
}

// http reads an HTTP client's request, and does what it wants.
func (x *session) http() {
	req, err := http.ReadRequest(x.r)
	if err != nil {
		x.log("request", "error", err)
		x.httpError(http.StatusBadRequest, "this is an HTTP proxy, and that was no request")
		return
	}
	if len(x.Users) > 0 && !x.httpUser(req.Header.Get("Proxy-Authorization")) {
		x.refused()
		x.httpError(http.StatusProxyAuthRequired, "a user and the right password are needed")
		return
	}
	if req.Method == http.MethodConnect {
		x.httpConnect(req)
		return
	}
	if !req.URL.IsAbs() || req.URL.Scheme != "http" || req.URL.Hostname() == "" {
		x.httpError(http.StatusBadRequest, "a proxy needs a whole address, which begins with http://; for others there is CONNECT")
		return
	}
	x.httpPlain(req)
}

func (x *session) httpUser(header string) bool {
	kind, text, _ := strings.Cut(header, " ")
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	name, password, ok := strings.Cut(string(plain), ":")
	return strings.EqualFold(kind, "Basic") && err == nil && ok && x.Users.has(name, password)
}

// httpError answers with a status and a line of text, and ends the connection.
func (x *session) httpError(status int, text string) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	if status == http.StatusProxyAuthRequired {
		b.WriteString("Proxy-Authenticate: Basic realm=\"wgjail\", charset=\"UTF-8\"\r\n")
	}
	text = "wgjail: " + text + "\n"
	fmt.Fprintf(&b, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
	x.sendAway(b.Bytes())
}

// httpDial connects to host, or tells the client why not.
func (x *session) httpDial(host, defaultPort string) (*net.TCPConn, bool) {
	name, port, err := net.SplitHostPort(host)
	if err != nil && defaultPort != "" {
		name, port = strings.Trim(host, "[]"), defaultPort
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 || name == "" {
		x.httpError(http.StatusBadRequest, "no host and port to connect to")
		return nil, false
	}
	target, err := x.dial(name, uint16(number))
	if err != nil {
		x.httpError(httpStatuses[reason(err)], err.Error())
		return nil, false
	}
	return target, true
}

// httpConnect is CONNECT.
func (x *session) httpConnect(req *http.Request) {
	target, ok := x.httpDial(req.Host, "")
	if !ok {
		return
	}
	defer target.Close()
	if _, err := io.WriteString(x.client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	x.join(target, x.ahead())
}

// httpPlain sends a request to its target and the head of the response to the
// client; what follows it is the relay's.
func (x *session) httpPlain(req *http.Request) {
	target, ok := x.httpDial(req.URL.Host, "80")
	if !ok {
		return
	}
	defer target.Close()
	target.SetDeadline(time.Now().Add(x.timeout()))
	if _, err := target.Write(append(requestHead(req), x.ahead()...)); err != nil {
		x.httpError(http.StatusBadGateway, "the target does not take the request")
		return
	}
	head, left, err := x.await(target)
	if err != nil {
		x.log("response", "error", err)
		x.httpError(http.StatusBadGateway, "the target has not sent a response")
		return
	}
	if _, err := x.client.Write(head); err != nil {
		return
	}
	x.join(target, left)
}

// await waits for the head of the response, and passes on meanwhile what the
// client may still be sending: a body, perhaps a large one. It returns the head
// with what came at once after it, and what the target has not taken yet.
func (x *session) await(target *net.TCPConn) (head, left []byte, err error) {
	x.client.SetDeadline(time.Time{})
	target.SetDeadline(time.Time{})
	pumped := make(chan []byte)
	go func() { pumped <- pump(target, x.client) }()
	r := bufio.NewReader(io.LimitReader(target, headLimit))
	head, err = x.responseHead(r)
	x.client.SetReadDeadline(time.Unix(1, 0))
	target.SetWriteDeadline(time.Unix(1, 0))
	left = <-pumped
	x.client.SetReadDeadline(time.Time{})
	target.SetWriteDeadline(time.Time{})
	if err != nil {
		return nil, nil, err
	}
	after, _ := r.Peek(r.Buffered())
	return append(head, after...), left, nil
}

// pump copies until it is interrupted by a deadline of one of the two, or one
// ends, and passes that on. It returns what it has read and could not write.
func pump(to, from *net.TCPConn) (left []byte) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if m, writeErr := to.Write(buf[:n]); writeErr != nil {
			return buf[m:n]
		}
		switch {
		case errors.Is(err, io.EOF):
			to.CloseWrite()
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			to.Close() // nobody waits for the response
			return nil
		}
	}
}

// hopByHop are the headers that concern one connection only (RFC 9110, 7.6.1),
// with those that "Connection" names.
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Upgrade", "Proxy-Authorization", "Proxy-Authenticate"}

func dropHopByHop(h http.Header) {
	for _, line := range h.Values("Connection") {
		for name := range strings.SplitSeq(line, ",") {
			switch name = textproto.TrimString(name); http.CanonicalHeaderKey(name) {
			case "Content-Length", "Transfer-Encoding", "Host": // they say where the message ends, and whose it is
			default:
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// requestHead is the request as the target gets it. Nothing tells that there is
// a proxy.
func requestHead(req *http.Request) []byte {
	var b bytes.Buffer
	dropHopByHop(req.Header)
	fmt.Fprintf(&b, "%s %s %s\r\nHost: %s\r\n", req.Method, req.URL.RequestURI(), req.Proto, req.URL.Host)
	for _, coding := range req.TransferEncoding { // net/http has taken it out
		req.Header.Add("Transfer-Encoding", coding)
	}
	for name := range req.Trailer {
		req.Header.Add("Trailer", name)
	}
	req.Header.Set("Connection", "close")
	req.Header.Write(&b)
	b.WriteString("\r\n")
	return b.Bytes()
}

var errNotHTTP = errors.New("not a response")

// responseHead reads the head of the response and returns it as the client gets
// it. Interim responses ("100 Continue") are sent on at once.
func (x *session) responseHead(r *bufio.Reader) ([]byte, error) {
	for {
		text := textproto.NewReader(r)
		line, err := text.ReadLine()
		if err != nil {
			return nil, err
		}
		version, rest, _ := strings.Cut(line, " ")
		code, _, _ := strings.Cut(rest, " ")
		if !strings.HasPrefix(version, "HTTP/1.") || len(code) != 3 {
			return nil, errNotHTTP
		}
		header, err := text.ReadMIMEHeader()
		if err != nil {
			return nil, err
		}
		interim := code[0] == '1'
		h := http.Header(header)
		dropHopByHop(h)
		if !interim {
			h.Set("Connection", "close")
		}
		var b bytes.Buffer
		b.WriteString(line + "\r\n")
		h.Write(&b)
		b.WriteString("\r\n")
		if !interim {
			return b.Bytes(), nil
		}
		if _, err := x.client.Write(b.Bytes()); err != nil {
			return nil, err
		}
	}
}
