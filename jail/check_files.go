package jail

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// probeFiles looks at the files that decide for the jail: what programs find in
// /etc, and what wgjail has written down. Whoever else could write them could
// lead programs elsewhere.
func (c *checker) probeFiles(ctx context.Context) outcome {
	if v := c.part(partFiles, "")(ctx); v.result == Failed {
		return v
	}
	owner := "root"
	if rootless() {
		owner = fmt.Sprintf("user %d", os.Geteuid())
	}
	for _, f := range []struct {
		path string
		most fs.FileMode
	}{
		{etcNetns(), 0o755}, {dnsDir(c.Name), 0o755}, {dnsDir(c.Name) + "/resolv.conf", 0o644}, {dnsDir(c.Name) + "/nsswitch.conf", 0o644},
		{runDir, 0o700}, {stateDir(c.Name), 0o700}, {forwardDir(c.Name), 0o700},
		{statePath(c.Name), 0o600}, {keeperFile(c.Name), 0o600}, {keeperLog(c.Name), 0o600},
	} {
		if trouble := modeTrouble(f.path, f.most); trouble != "" {
			return failed(fmt.Sprintf("chown %s %s; chmod %04o %[2]s", owner, f.path, f.most), "%s: %s", f.path, trouble)
		}
	}
	return passed("those in %s and %s are as written, and %s's", dnsDir(c.Name), stateDir(c.Name), owner)
}

// modeTrouble says who can do more with the file than mode most and this user as
// its owner allow.
func modeTrouble(path string, most fs.FileMode) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		if os.IsNotExist(err) {
			return "" // other probes say what that means
		}
		return err.Error()
	}
	mode := fs.FileMode(st.Mode).Perm()
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return "it is a symbolic link"
	case int(st.Uid) != os.Geteuid():
		return fmt.Sprintf("it belongs to user %d", st.Uid)
	case mode&^most != 0:
		return fmt.Sprintf("its mode is %04o, more than %04o", mode, most)
	}
	return ""
}
