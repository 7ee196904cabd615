package jail

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// A hook is a moment at which wg-quick(8) runs commands.
type hook int

const (
	preUp hook = iota
	postUp
	preDown
	postDown
)

func (h hook) String() string { return [...]string{"PreUp", "PostUp", "PreDown", "PostDown"}[h] }

func (h Hooks) at(when hook) []string {
	return [...][]string{h.PreUp, h.PostUp, h.PreDown, h.PostDown}[when]
}

// runHooks runs the commands of one moment in order, as root inside the jail, or
// in a world as the user with all rights over the jail,
// with the interface's name for %i. Unless hooks were allowed there are none.
func (s *state) runHooks(ctx context.Context, when hook) error {
	if s.Hooks == nil {
		return nil
	}
	for _, command := range s.Hooks.at(when) {
		command = strings.ReplaceAll(command, "%i", s.Name)
		args := []string{"exec", "--keep-caps"}
		if !rootless() {
			args = append(args, "--user", "0")
		}
		cmd := Self(append(args, s.Name, "--", "bash", "-c", command)...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("run %s: %w", when, err)
		}
		stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		stop()
		if err != nil {
			return fmt.Errorf("%s = %s: %w", when, command, err)
		}
	}
	return nil
}
