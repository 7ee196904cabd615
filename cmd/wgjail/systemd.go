package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/internal/hint"
	"github.com/wgjail/wgjail/jail"
)

//go:embed units
var unitFiles embed.FS

// packaged is where the units expect wgjail: where packages put it.
const packaged = "/usr/bin/wgjail"

// systemUnits is where an administrator's units are (systemd.unit(5)).
const systemUnits = "/etc/systemd/system"

func (p *program) systemdCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "systemd",
		Short: "print or install the units; put a service into a jail",
		Long: `Units for systemd. Packages bring them along:

  wgjail@NAME.service            a jail, from /etc/wireguard/NAME.conf
  wgjail-forward@NAME.service    ports into it: FORWARD=SPEC… in /etc/wgjail/NAME.env`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageHint(cmd, misused("what about systemd?"))
		},
	}
	cmd.AddCommand(p.systemdPrintCommand(), p.systemdInstallCommand(), p.systemdAttachCommand(), p.systemdDetachCommand())
	return cmd
}

func (p *program) systemdPrintCommand() *cobra.Command {
	return &cobra.Command{
		Use: "print [UNIT]…", Short: "print the units, or some of them", ValidArgs: unitNames(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = unitNames()
			}
			for i, name := range args {
				text, err := unit(name)
				if err != nil {
					return err
				}
				if i > 0 {
					fmt.Fprintln(p.out)
				}
				p.out.Write(text)
			}
			return nil
		},
	}
}

func (p *program) systemdInstallCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "install", Short: "write the units, for this program where it is", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot(cmd); err != nil {
				return err
			}
			for _, name := range unitNames() {
				text, err := unit(name)
				if err != nil {
					return err
				}
				if err := p.writeUnit(filepath.Join(dir, name), text); err != nil {
					return err
				}
			}
			return reloadSystemd()
		},
	}
	cmd.Flags().StringVar(&dir, "dir", systemUnits, "`DIR` to write to")
	return cmd
}

func unitNames() []string {
	entries, _ := fs.ReadDir(unitFiles, "units") // it is part of the program
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// unit returns the unit called name, for this program.
func unit(name string) ([]byte, error) {
	if !slices.Contains(unitNames(), name) {
		return nil, hint.Wrap(misused("there is no unit %q", name), "there are: %s", strings.Join(unitNames(), ", "))
	}
	text, err := fs.ReadFile(unitFiles, "units/"+name)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(text, []byte(packaged), []byte(self)), nil
}

func (p *program) writeUnit(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	fmt.Fprintln(p.out, "wrote", path)
	return nil
}

// reloadSystemd lets systemd read its units again, where it runs.
func reloadSystemd() error {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return nil
	}
	out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl daemon-reload: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// dropInMark begins the drop-ins that are ours.
const dropInMark = "# made by wgjail: removed by \"wgjail systemd detach\"\n"

func dropInPath(service string) string {
	return filepath.Join(systemUnits, service+".d", "wgjail.conf")
}

// serviceName is the name of a service's unit as users write it, with or
// without .service.
func serviceName(s string) (string, error) {
	name := strings.TrimSuffix(s, ".service")
	ok := func(r rune) bool {
		return r < 0x80 && (r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune(`:-_.\@`, r))
	}
	if name == "" || len(name) > 240 || name[0] == '.' || strings.ContainsFunc(name, func(r rune) bool { return !ok(r) }) {
		return "", hint.Wrap(misused("%q cannot be the name of a service", s), "see: systemctl list-unit-files --type=service")
	}
	if strings.HasPrefix(name, "wgjail@") || strings.HasPrefix(name, "wgjail-forward@") {
		return "", misused("%s belongs on the host: it makes the jail, or the ports into it", name)
	}
	return name + ".service", nil
}

func (p *program) systemdAttachCommand() *cobra.Command {
	var name string
	var print bool
	cmd := &cobra.Command{
		Use: "attach SERVICE --jail NAME", Short: "put a service into a jail",
		Long: `Write a drop-in that puts an existing service into a jail: its network, its name
servers, and no name service of the host. The service starts the jail's, and
stops with it. A socket that systemd listens on for the service stays outside.`,
		Args: oneArg("which service?"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := serviceName(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				return usageHint(cmd, misused("into which jail? give --jail NAME"))
			}
			if err := checkJail(name); err != nil {
				return err
			}
			text := append([]byte(dropInMark), jail.ServiceDropIn(name, "wgjail@"+name+".service")...)
			if print {
				_, err := p.out.Write(text)
				return err
			}
			if err := needRoot(cmd); err != nil {
				return err
			}
			return p.attach(service, text)
		},
	}
	cmd.Flags().StringVar(&name, "jail", "", "the jail's `NAME`")
	cmd.Flags().BoolVar(&print, "print", false, "print the drop-in and write nothing")
	return cmd
}

func (p *program) attach(service string, text []byte) error {
	path := dropInPath(service)
	if err := ownDropIn(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := p.writeUnit(path, text); err != nil {
		return err
	}
	if err := reloadSystemd(); err != nil {
		return err
	}
	fmt.Fprintf(p.out, "to move it: systemctl restart %s\n", service)
	return nil
}

func (p *program) systemdDetachCommand() *cobra.Command {
	return &cobra.Command{
		Use: "detach SERVICE", Short: "take a service out of its jail",
		Args: oneArg("which service?"), ValidArgsFunction: completeAttached,
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := serviceName(args[0])
			if err != nil {
				return err
			}
			if err := needRoot(cmd); err != nil {
				return err
			}
			path := dropInPath(service)
			if err := ownDropIn(path); err != nil {
				if errors.Is(err, os.ErrNotExist) {
					err = hint.Wrap(fmt.Errorf("%s is in no jail", service), "those that are: ls %s", dropInPath("*"))
				}
				return err
			}
			if err := os.Remove(path); err != nil {
				return err
			}
			os.Remove(filepath.Dir(path)) // if nothing else is in it
			fmt.Fprintln(p.out, "removed", path)
			if err := reloadSystemd(); err != nil {
				return err
			}
			fmt.Fprintf(p.out, "to move it: systemctl restart %s\n", service)
			return nil
		},
	}
}

// ownDropIn reports whether the drop-in at path is there and ours.
func ownDropIn(path string) error {
	text, err := os.ReadFile(path)
	if err == nil && !bytes.HasPrefix(text, []byte(dropInMark)) {
		err = hint.Wrap(fmt.Errorf("%s was not made by wgjail", path), "move it away")
	}
	return err
}

// completeAttached offers the services that are in a jail.
func completeAttached(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	paths, _ := filepath.Glob(dropInPath("*"))
	var names []string
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(filepath.Dir(path)), ".service.d"))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
