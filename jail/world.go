package jail

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wgjail/wgjail/internal/filelock"
	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/internal/userns"
)

// A World is where the jails of a user who is not root are made: a user namespace
// and a mount namespace, but the host's network namespace. In it wgjail has
// every right over what it makes, sees a /run of its own, and does what it does
// as root.
//
//	host                        world                          jail
//	$XDG_RUNTIME_DIR/wgjail ──► /run/wgjail                    the program's own
//	/run                  ────► /run (a mirror)                mirrors, as of root's jails
//	                            /run/netns/NAME  ────────────► network namespace
//	UDP sockets, forwards, proxies: in the host's network namespace
//
// Nothing holds a world but the processes in it: keepers, forwards, programs, and
// commands at work. The next command joins them; if there are none any more, it
// makes a new world. .world in the user's folder says how to find it:
//
//	lock on the folder    held to find or make a world and enter it, and to forget it
//	lock on .world        shared by the commands in the world; who forgets it has it alone
type World struct {
	dir    string
	lock   *filelock.Lock // on dir, until a process has entered
	used   *os.File       // .world, locked
	spaces *userns.Spaces
}

// A worldRecord is what .world says.
type worldRecord struct {
	Mark string `json:"mark"` // see userns.Find
	userns.Names
}

// worldMark begins the marks of worlds: the names of what is mounted on /run.
const worldMark = "wgjail-"

func worldPath(dir string) string { return filepath.Join(dir, ".world") }

// rootless reports whether this process works in a world, or must.
func rootless() bool { return os.Geteuid() != 0 }

// InWorld reports whether this process is in a world, with every right there.
func InWorld() (bool, error) {
	if !rootless() {
		return false, nil
	}
	return userns.Within("/run", worldMark)
}

// OpenWorld finds the user's world, or makes it. Others wait until Start or Leave
// is called: until a process is in the world, nobody else would find it.
func OpenWorld() (*World, error) {
	if err := outside(); err != nil {
		return nil, err
	}
	dir, err := userDir()
	if err != nil {
		return nil, err
	}
	w := &World{dir: dir}
	if w.lock, err = filelock.Folder(dir); err != nil {
		return nil, err
	}
	if err := w.use(worldPath(dir)); err != nil {
		w.close()
		return nil, err
	}
	if err := w.find(); err != nil {
		if info, statErr := w.used.Stat(); statErr == nil && info.Size() == 0 {
			os.Remove(worldPath(dir)) // it is new
		}
		w.close()
		return nil, noWorld(err)
	}
	return w, nil
}

// outside is an error in a world's jails: there, neither can another world be made
// nor does anything tell of the host.
func outside() error {
	inside, err := userns.Marked(worldMark)
	if err != nil || !inside {
		return err
	}
	return hint.Wrap(errors.New("this is inside a jail"), "call wgjail outside")
}

// noWorld is the error of a user who cannot have a world.
func noWorld(err error) error {
	return hint.Wrap(fmt.Errorf("make a jail without being root: %w", err), "wgjail check --rootless says what is missing; or try again with sudo")
}

// JoinWorld lets the process, which is in the world, share it: it is not
// forgotten before Leave.
func JoinWorld() (*World, error) {
	dir, err := userDir()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(worldPath(runDir))
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	}
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("the world of this user's jails has just been removed: %w", err), "try again")
	}
	return &World{dir: dir, used: f}, nil
}

// use opens .world and shares its lock. The caller holds the lock on the folder.
func (w *World) use(path string) (err error) {
	if w.used, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err = unix.Flock(int(w.used.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return nil
}

// find opens the world's namespaces, or makes those that are missing.
func (w *World) find() error {
	var rec worldRecord
	text, err := readOwned(w.used.Name())
	if err != nil {
		return err
	}
	json.Unmarshal(text, &rec) // what cannot be read is found nowhere
	user := userns.New
	if rec.Mark != "" {
		found, err := userns.Find(rec.Names, rec.Mark)
		switch {
		case err == nil && found.Mount != nil:
			w.spaces = found
			return nil
		case err == nil:
			defer found.Close()
			user = int(found.User.Fd())
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
	}
	if user == userns.New {
		rec.Mark = worldMark + rand.Text()
	}
	if rec.Names, err = w.build(user, rec.Mark); err != nil {
		return err
	}
	if text, err = json.Marshal(rec); err == nil {
		_, err = w.used.WriteAt(append(text, '\n'), 0)
	}
	if err == nil {
		err = w.used.Truncate(int64(len(text) + 1))
	}
	return err
}

// build has a process make the world, and opens its namespaces. Then the process
// ends.
func (w *World) build(user int, mark string) (names userns.Names, err error) {
	life, lifeW, err := os.Pipe()
	if err != nil {
		return names, err
	}
	defer life.Close()
	ready, readyW, err := os.Pipe()
	if err != nil {
		lifeW.Close()
		return names, err
	}
	defer ready.Close()
	pid, err := userns.Start(userns.Options{
		User: user, Mount: userns.New, Argv: []string{"wgjail", WorldCommand, w.dir, mark}, Env: os.Environ(),
		Files: []int{int(life.Fd()), 2, 2, int(readyW.Fd())}, Session: true,
	})
	readyW.Close()
	if err != nil {
		lifeW.Close()
		return names, err
	}
	defer userns.Reap(pid)
	defer lifeW.Close()
	if err := readReady(ready, WorldCommand); err != nil {
		return names, err
	}
	if w.spaces, err = userns.Of(pid); err != nil {
		return names, err
	}
	return w.spaces.Names()
}

// Start starts this program with argv in the world, in the place of the calling
// one: with its files, directory, terminal and process group. It gets SIGTERM
// when the calling thread ends.
func (w *World) Start(argv, env []string) (pid int, err error) {
	pid, err = userns.Start(userns.Options{
		User: int(w.spaces.User.Fd()), Mount: int(w.spaces.Mount.Fd()), Argv: argv, Env: env, Death: unix.SIGTERM,
	})
	if err != nil {
		return 0, noWorld(err)
	}
	w.enter() // the process holds them now
	return pid, nil
}

// Leave ends the use of the world. The last one forgets it, if there is no jail
// in it; what nobody is in, the kernel removes.
func (w *World) Leave() error {
	w.close()
	lock, err := filelock.Folder(w.dir)
	if err != nil {
		return err
	}
	defer lock.Release() // removes an empty folder
	f, err := os.Open(worldPath(w.dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil // who uses it forgets it
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil || len(entries) > 1 {
		return err
	}
	return removeFile(worldPath(w.dir))
}

func (w *World) close() {
	if w.used != nil {
		w.used.Close()
		w.used = nil
	}
	w.enter()
}

// enter lets go of what is held until a process is in the world.
func (w *World) enter() {
	if w.spaces != nil {
		w.spaces.Close()
		w.spaces = nil
	}
	if w.lock != nil {
		w.lock.Release()
		w.lock = nil
	}
}
