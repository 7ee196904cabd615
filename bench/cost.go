package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cost is processor time. The kernel knows the sum exactly, and tells user from
// system time by ticks of 10 ms.
type cost struct{ exact, userTicks, systemTicks time.Duration }

func (c cost) minus(d cost) cost {
	return cost{c.exact - d.exact, c.userTicks - d.userTicks, c.systemTicks - d.systemTicks}
}

func (c cost) plus(d cost) cost {
	return cost{c.exact + d.exact, c.userTicks + d.userTicks, c.systemTicks + d.systemTicks}
}

// user is the part of the sum that the ticks say was user time.
func (c cost) user() time.Duration {
	if all := c.userTicks + c.systemTicks; all > 0 {
		return time.Duration(float64(c.exact) * float64(c.userTicks) / float64(all))
	}
	return 0
}

func (c cost) system() time.Duration { return c.exact - c.user() }

// groupCost is what the processes of a group have used, with their children that
// have ended.
func groupCost(group int) cost {
	var c cost
	for _, pid := range groupMembers(group) {
		c = c.plus(processCost(pid))
	}
	return c
}

// tick is the unit of proc_pid_stat(5): USER_HZ is 100 on every architecture
// that Go knows.
const tick = 10 * time.Millisecond

func processCost(pid int) cost {
	f := statFields(pid)
	if f == nil {
		return cost{}
	}
	// utime, stime, cutime and cstime: fields 14 to 17.
	user, system := time.Duration(f[11])*tick, time.Duration(f[12])*tick
	childUser, childSystem := time.Duration(f[13])*tick, time.Duration(f[14])*tick
	sum := user + system
	var exact unix.Timespec
	// The process's own clock: clock_getcpuclockid(3).
	if unix.ClockGettime(int32(^uint32(pid))<<3|2, &exact) == nil {
		sum = time.Duration(exact.Nano())
	}
	return cost{sum + childUser + childSystem, user + childUser, system + childSystem}
}

// statFields are the numbers of /proc/PID/stat from its third field on; nil: the
// process has ended.
func statFields(pid int) []int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, rest, found := bytes.Cut(text[bytes.LastIndexByte(text, '('):], []byte(") "))
	words := strings.Fields(string(rest))
	if !found || len(words) < 20 {
		return nil
	}
	fields := make([]int64, len(words))
	for i, w := range words {
		fields[i], _ = strconv.ParseInt(w, 10, 64) // the state is a letter
	}
	return fields
}

// groupMembers lists the processes of a process group; none for 0.
func groupMembers(group int) []int {
	if group == 0 {
		return nil
	}
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		if f := statFields(pid); f != nil && int(f[2]) == group {
			pids = append(pids, pid)
		}
	}
	return pids
}

// ownCost is what this process, with clients and servers, has used.
func ownCost() cost { return usage(unix.RUSAGE_SELF) }

// usage is what getrusage(2) says.
func usage(who int) cost {
	var u unix.Rusage
	if unix.Getrusage(who, &u) != nil {
		return cost{}
	}
	user, system := time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())
	return cost{user + system, user, system}
}

// A holding is what processes hold.
type holding struct {
	memory int // bytes of their own, shared pages by part (Pss in proc_pid_smaps(5))
	files  int // open descriptors
}

func groupHolding(group int) holding {
	var h holding
	for _, pid := range groupMembers(group) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
				kib, _ := strconv.Atoi(f[1])
				h.memory += kib << 10
			}
		}
		if list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
			h.files += len(list)
		}
	}
	return h
}
