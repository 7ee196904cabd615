package jail

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// A visitor is a new program in a jail, started as any other and as a user
// without rights: it sees what programs see, and fetches what it is told to.
type visitor struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// nobody has no rights of its own on any system.
const nobody = "65534:65534"

func startVisitor(ctx context.Context, name string) (*visitor, error) {
	args := []string{"exec", "--user", nobody, name, "--", "/proc/self/exe", InsideCommand}
	if rootless() { // in a world there is nobody but the user
		args = slices.Delete(args, 1, 3)
	}
	v := &visitor{cmd: Self(args...)}
	v.cmd.Dir = "/"
	var complaint strings.Builder
	v.cmd.Stderr = &complaint
	in, err := v.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	v.in, v.out = in, bufio.NewReader(out)
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := v.out.ReadString('\n'); err != nil {
		v.close()
		if text, _, _ := strings.Cut(strings.TrimPrefix(complaint.String(), "wgjail: error: "), "\n"); text != "" {
			err = errors.New(text)
		}
		return nil, fmt.Errorf("a new program did not begin: %w", err)
	}
	return v, nil
}

// ready is what a visitor says first.
const ready = "ready\n"

// process is the visitor among programs. It has no name there.
func (v *visitor) process() Process { return Process{PID: v.cmd.Process.Pid} }

// close ends the visitor: its standard input has an end.
func (v *visitor) close() {
	v.in.Close()
	io.Copy(io.Discard, v.out)
	v.cmd.Wait()
}

// An errand is what a visitor is told to fetch, and how long to wait.
type errand struct {
	URL      string
	Patience time.Duration
}

// A catch is what it brings.
type catch struct{ Body, Error string }

// fetch has the visitor fetch a page.
func (v *visitor) fetch(e errand) (string, error) {
	if err := json.NewEncoder(v.in).Encode(e); err != nil {
		return "", err
	}
	var c catch
	if err := json.NewDecoder(v.out).Decode(&c); err != nil {
		return "", err
	}
	if c.Error != "" {
		return "", errors.New(c.Error)
	}
	return c.Body, nil
}

// Inside is the whole life of the program that Check starts in a jail: it says
// that it is there, does its errands, and ends with its standard input.
func Inside(in io.Reader, out io.Writer) error {
	if _, err := io.WriteString(out, ready); err != nil {
		return err
	}
	for tasks := json.NewDecoder(in); ; {
		var e errand
		err := tasks.Decode(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var c catch
		if c.Body, err = fetchPage(context.Background(), e); err != nil {
			c.Error = err.Error()
		}
		if err := json.NewEncoder(out).Encode(c); err != nil {
			return err
		}
	}
}

// fetchPage returns the beginning of a page, straight from its server.
func fetchPage(ctx context.Context, e errand) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL, nil)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{DisableKeepAlives: true} // no proxy: it would be whom the page sees
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", e.URL, resp.Status)
	}
	return string(body), err
}
