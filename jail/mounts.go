package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/wgjail/wgjail/internal/hint"
)

// A mirror is a directory as a program in the jail sees it: a tmpfs over the
// host's, in which the host's entries are found again, but for those that are
// hidden or replaced.
//
//	host /run                      jail /run (tmpfs)
//	  systemd/resolve/io.systemd…
//	  systemd/journal/  ◄── bind ──  systemd/journal/
//	  nscd/socket
//	  lock/             ◄── bind ──  lock/
//	  shm -> /dev/shm                shm -> /dev/shm
//
// It is the directory that is mounted over, because a mount on a file or
// directory goes away with it: the kernel detaches a mount, in every mount
// namespace, when what it covers is removed or renamed over. Nothing that the
// host makes, removes or renames at the top of a mirrored directory shows in
// the mirror; below, the directories are the host's own.
//
// An overlay of the host's directory would cost less, but all of it would be
// read-only or else its changes private, while some daemons keep their
// settings in a directory of /etc.
type mirror struct {
	dir      string      // without symbolic links
	options  string      // of its tmpfs
	source   string      // of its tmpfs, as mount tables show it; "": tmpfs
	readonly bool        // at the top: what is written there would be lost
	steps    []mountStep // in order
}

// A mountStep makes one entry of a mirror.
type mountStep struct {
	kind   string // one of the kinds below
	path   string // of the entry, relative to the mirrored directory
	source string // bind: what to mount, relative to the host's directory; link: the target
	dir    bool   // bind: onto a directory, not a file
	data   []byte // file: the content
	owner  fileOwner
}

const (
	stepBind = "bind" // what the host has there
	stepLink = "link" // a symbolic link, as the host's
	stepDir  = "dir"  // a directory of the mirror, for the entries that follow
	stepFile = "file" // a file of the mirror
)

type fileOwner struct {
	mode     uint32 // permission bits, and the sticky and set-id ones
	uid, gid int
}

// String is a line that says what the step does, for messages and tests.
func (s mountStep) String() string {
	switch s.kind {
	case stepLink:
		return fmt.Sprintf("link %s -> %s", s.path, s.source)
	case stepDir:
		return fmt.Sprintf("dir %s %04o %d:%d", s.path, s.owner.mode, s.owner.uid, s.owner.gid)
	case stepFile:
		return fmt.Sprintf("file %s %q", s.path, s.data)
	case stepBind:
		if s.source != s.path {
			return fmt.Sprintf("bind %s from %s", s.path, s.source)
		}
	}
	return fmt.Sprintf("%s %s", s.kind, s.path)
}

// A mirrorRule says in what a mirror differs from the host's directory. Paths
// are relative to it.
type mirrorRule struct {
	hide   []string // is not there, whether the host has it now, later or never
	only   []string // unless nil: nothing else is there
	netns  string   // unless "": take ip-netns(8)'s files for this namespace from netns/NAME
	copied []string // those of them that must exist, and that the mirror has copies of
	files  fs.FS    // unless nil: take the copied ones from NAME in here, and no others
}

// plan returns the steps that mirror the directory host.
func (r mirrorRule) plan(host fs.FS) ([]mountStep, error) {
	replaced, err := r.replacements(host)
	if err != nil {
		return nil, err
	}
	taken := make(map[string]bool, len(replaced))
	for _, s := range replaced {
		taken[s.path] = true
	}
	steps, err := r.walk(host, ".", taken)
	return append(steps, replaced...), err
}

func (r mirrorRule) walk(host fs.FS, dir string, taken map[string]bool) ([]mountStep, error) {
	entries, err := fs.ReadDir(host, dir)
	if err != nil {
		return nil, err
	}
	var steps []mountStep
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if taken[name] {
			continue
		}
		more, err := r.entry(host, name, e)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have gone meanwhile
			return nil, err
		}
		steps = append(steps, more...)
	}
	return steps, nil
}

// entry returns the steps for one entry of the host's directory.
func (r mirrorRule) entry(host fs.FS, name string, e fs.DirEntry) ([]mountStep, error) {
	listed, above := position(name, r.only)
	hidden, aboveHidden := position(name, r.hide)
	if hidden || r.only != nil && !listed && !above {
		return nil, nil
	}
	split := aboveHidden || above && !listed
	switch {
	case e.Type() == fs.ModeSymlink && split:
		return nil, nil // what it leads to may be what is hidden
	case e.Type() == fs.ModeSymlink:
		target, err := fs.ReadLink(host, name)
		if err != nil {
			return nil, err
		}
		return []mountStep{{kind: stepLink, path: name, source: target}}, nil
	case e.IsDir() && split:
		step, err := dirStep(host, name)
		if err != nil {
			return nil, err
		}
		below, err := r.walk(host, name, nil)
		return append([]mountStep{step}, below...), err
	case split:
		return nil, nil
	}
	return []mountStep{{kind: stepBind, path: name, source: name, dir: e.IsDir()}}, nil
}

// position tells whether name is in the list or below an entry of it, and
// whether it is above one.
func position(name string, list []string) (in, above bool) {
	for _, l := range list {
		in = in || l == name || strings.HasPrefix(name, l+"/")
		above = above || strings.HasPrefix(l, name+"/")
	}
	return in, above
}

// dirStep makes a directory like the host's.
func dirStep(host fs.FS, name string) (mountStep, error) {
	info, err := fs.Lstat(host, name)
	if err != nil {
		return mountStep{}, err
	}
	return mountStep{kind: stepDir, path: name, owner: ownerOf(info)}, nil
}

func ownerOf(info fs.FileInfo) fileOwner {
	o := fileOwner{mode: uint32(info.Mode().Perm())}
	for bit, value := range map[fs.FileMode]uint32{fs.ModeSticky: 0o1000, fs.ModeSetgid: 0o2000, fs.ModeSetuid: 0o4000} {
		if info.Mode()&bit != 0 {
			o.mode |= value
		}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		o.uid, o.gid = int(st.Uid), int(st.Gid)
	}
	return o
}

// replacements returns the steps for the files of the namespace.
func (r mirrorRule) replacements(host fs.FS) ([]mountStep, error) {
	if r.netns == "" {
		return nil, nil
	}
	files, dir := host, path.Join("netns", r.netns)
	if r.files != nil {
		files, dir = r.files, r.netns
	}
	var steps []mountStep
	copied := map[string]bool{}
	for _, name := range r.copied {
		data, err := fs.ReadFile(files, path.Join(dir, name))
		if err != nil {
			return nil, hint.Wrap(fmt.Errorf("the jail's own %s: %w", name, err),
				"repair the jail: run \"wgjail up\" with its configuration again")
		}
		steps = append(steps, mountStep{kind: stepFile, path: name, data: data})
		copied[name] = true
	}
	if r.files != nil {
		return steps, nil
	}
	entries, err := fs.ReadDir(host, dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if copied[e.Name()] || strings.HasPrefix(e.Name(), ".") { // hidden: being written
			continue
		}
		source := path.Join(dir, e.Name())
		info, err := fs.Stat(host, source)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		steps = append(steps, mountStep{kind: stepBind, path: e.Name(), source: source, dir: info.IsDir()})
	}
	return steps, nil
}
