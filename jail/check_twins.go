package jail

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// twins warns of programs outside with the name and user of one inside: many
// programs hand over what they are asked to do to the one that runs already.
func (c *checker) twins() []string {
	if c.ns == nil || len(c.programs) == 0 {
		return nil
	}
	outside, err := processesWhere(func(pid int) bool { return !inNamespace(pid, c.ns.ID()) })
	if err != nil {
		return []string{fmt.Sprintf("the programs outside cannot be looked at: %v", err)}
	}
	type who struct {
		name string
		uid  uint32
	}
	first := map[who]int{}
	for _, p := range outside {
		if w := (who{p.Name, p.UID}); first[w] == 0 {
			first[w] = p.PID
		}
	}
	var list []string
	for _, p := range c.programs {
		w := who{p.Name, p.UID}
		if first[w] == 0 || isolated(p.PID) {
			continue
		}
		list = append(list, fmt.Sprintf("%s runs outside as well, as process %d of the same user: a program that runs once only would hand its work over; wgjail exec --isolate keeps them apart",
			p.title(), first[w]))
		first[w] = 0 // once for each name
	}
	return list
}

// isolated reports whether the process has a /tmp of its own.
func isolated(pid int) bool {
	var ours, theirs unix.Stat_t
	return unix.Stat("/tmp", &ours) == nil && unix.Stat(fmt.Sprintf("/proc/%d/root/tmp", pid), &theirs) == nil && ours.Dev != theirs.Dev
}
