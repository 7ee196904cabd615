package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/wgjail/wgjail/internal/hint"
)

// configDir is where wg-quick(8) finds a configuration by its bare name.
const configDir = "/etc/wireguard"

// ConfigDirs are where configurations are found by their bare names, the first
// one first: for users who are not root, wireguard in $XDG_CONFIG_HOME or
// ~/.config; and /etc/wireguard.
func ConfigDirs() []string {
	own := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(own) {
		own = filepath.Join(os.Getenv("HOME"), ".config")
	}
	if !rootless() || !filepath.IsAbs(own) {
		return []string{configDir}
	}
	return []string{filepath.Join(own, "wireguard"), configDir}
}

// OpenConfig reads and parses the configuration that arg stands for: a file,
// if arg has a slash or ends in ".conf", else ARG.conf in one of ConfigDirs.
//
// A file that its group or others may read gives a warning, or, if strict, an
// error. Errors keep the identities of package fs (fs.ErrNotExist,
// fs.ErrPermission) and carry a hint.
func OpenConfig(arg string, strict bool) (*Config, error) {
	return openConfig(ConfigDirs(), arg, strict)
}

func openConfig(dirs []string, arg string, strict bool) (*Config, error) {
	path, err := configPath(dirs, arg)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, explainOpen(err, dirs, arg, path)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, hint.Wrap(&fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}, "name a .conf file in it")
	}
	exposed := ""
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o044 != 0 {
		exposed = fmt.Sprintf("%s: group or others may read it (mode %04o), and a private key is in it", path, mode.Perm())
	}
	if exposed != "" && strict {
		return nil, hint.Wrap(errors.New(exposed), "chmod 600 %s", path)
	}
	c, err := ParseConfig(path, f)
	if err != nil {
		return nil, err
	}
	if exposed != "" {
		c.Warnings = append([]string{exposed + ": chmod 600 " + path}, c.Warnings...)
	}
	return c, nil
}

func configPath(dirs []string, arg string) (string, error) {
	if strings.Contains(arg, "/") || strings.HasSuffix(arg, ".conf") {
		return arg, nil
	}
	if err := CheckName(arg); err != nil {
		return "", hint.Wrap(err, "%s; a file is given with its path, as in ./vpn.conf", hint.Of(err))
	}
	for _, dir := range dirs[:len(dirs)-1] {
		path := filepath.Join(dir, arg+".conf")
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
	}
	return filepath.Join(dirs[len(dirs)-1], arg+".conf"), nil
}

// explainOpen adds the way out to an error of os.Open.
func explainOpen(err error, dirs []string, arg, path string) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		if os.Geteuid() == 0 {
			return hint.Wrap(err, "even root may not read it: check the file system that it is on")
		}
		if path != arg && len(dirs) > 1 && filepath.Dir(path) == dirs[1] {
			return hint.Wrap(err, "take a copy of your own: sudo cat %s | install -D -m 600 /dev/stdin %s; or run it with sudo", path, filepath.Join(dirs[0], arg+".conf"))
		}
		return hint.Wrap(err, "run it with sudo")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case path == arg:
		return hint.Wrap(err, "check the path; a bare name such as vpn stands for %s/vpn.conf", strings.Join(dirs, "/vpn.conf or "))
	}
	if _, here := os.Stat(arg + ".conf"); here == nil {
		return hint.Wrap(err, "there is a %s.conf here: give it as ./%s.conf", arg, arg)
	}
	return hint.Wrap(err, "a bare name stands for %s/%s.conf; give any other file with its path, as in ./%s.conf", strings.Join(dirs, "/"+arg+".conf or "), arg, arg)
}
