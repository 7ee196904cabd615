package jail

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/wgjail/wgjail/internal/netnsx"
	"github.com/wgjail/wgjail/internal/world"
)

func TestProcesses(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		newJailForExec(t, w)
		jail := w.Open(t, "vpn")
		if got, err := Processes(jail.Namespace); err != nil || len(got) != 0 {
			t.Fatalf("at first: %+v, error %v", got, err)
		}
		w.Host.Start(t, exec.Command("sleep", "1001"))
		cmd := exec.Command("sleep", "1002")
		asNobody(cmd)
		sleep := jail.Start(t, cmd)
		p := enter(t, w, execRequest{User: "7000:7001"}, []string{"with\x1bescape"}, nil)
		p.want(t, "ids")
		// A thread inside does not make a program of the process.
		var got []Process
		err := jail.Do(func() (err error) {
			got, err = Processes(jail.Namespace)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []Process{{sleep.Pid, 65534, "sleep 1002", "sleep"}, {p.Pid, 7000, probePath + " with?escape", "exe"}}
		if !slices.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		host, err := netnsx.Current()
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		if got, err = Processes(host); err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(got, func(p Process) bool { return p.PID == os.Getpid() }) {
			t.Errorf("the caller is among %+v", got)
		}
		if !slices.ContainsFunc(got, func(p Process) bool { return p.Command == "sleep 1001" }) {
			t.Errorf("the host's program is not among %+v", got)
		}
	})
}
