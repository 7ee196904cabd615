package world

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wgjail/wgjail/internal/machine"
	"github.com/wgjail/wgjail/internal/netnsx"
)

// sightings are what tests could leave behind.
type sightings map[string]bool

// onMachine looks at the network namespaces with names, the mounts, the links,
// and the processes of worlds that this process started.
func onMachine() sightings {
	seen := sightings{}
	if names, err := os.ReadDir(netnsx.Dir); err == nil {
		for _, n := range names {
			seen["network namespace "+n.Name()] = true
		}
	}
	if mounts, err := machine.MountsBelow("/run"); err == nil {
		for _, path := range mounts {
			seen["mount "+path] = true
		}
	}
	if links, err := net.Interfaces(); err == nil {
		for _, l := range links {
			seen["link "+l.Name] = true
		}
	}
	for _, pid := range ownProcesses() {
		seen["process "+pid] = true
	}
	return seen
}

// ownProcesses returns the process IDs of the stages that this process started,
// and of what they started and did not cleanse of its environment.
func ownProcesses() []string {
	mark := []byte(ownerVar + "=" + owner() + "\x00")
	var pids []string
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		if env, err := os.ReadFile(f); err == nil && bytes.Contains(env, mark) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// leftovers returns what is in after and not in before. Other programs make
// links and namespaces too: they count only on a machine that is given to the
// tests (WGJAIL_TEST_ALL=1). Processes are known by their mark.
func leftovers(before, after sightings) []string {
	var left []string
	for _, what := range slices.Sorted(maps.Keys(after)) {
		switch {
		case before[what]:
		case strings.HasPrefix(what, "process ") || os.Getenv(allVar) == "1":
			left = append(left, what)
		default:
			fmt.Fprintf(os.Stderr, "world: new on this machine since the tests began: %s\n", what)
		}
	}
	return left
}
