package jail

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// hostile is what the host could have, and a new namespace with it, in place of
// a setting's value.
var hostile = map[string]string{"0": "1", "1": "0", "2": "0", "0 2147483647": "1 0"}

// Each setting is left out, alone, where the namespace has it otherwise: then no
// other one may do its work, or it would not be needed, and that it is missing
// must be noticed.
func TestSettingMutations(t *testing.T) {
	world.Run(t, func(t *testing.T, w *world.World) {
		ns := w.Namespace(t, "vpn")
		check := func(list []setting) error { return ns.Do(func() error { return checkSettings(list) }) }
		apply := func(list []setting) {
			if err := ns.Do(func() error { return applySettings(list) }); err != nil {
				t.Fatal(err)
			}
		}
		for i, s := range settings {
			other := setting{s.path, hostile[s.value]}
			if s.path == "ipv4/ip_unprivileged_port_start" {
				other.value = "1024" // the kernel's
			}
			apply([]setting{other})
			if err := check([]setting{other}); err != nil {
				t.Fatal(err)
			}
			apply(slices.Delete(slices.Clone(settings), i, i+1))
			if err := check(settings); err == nil || !strings.Contains(strings.Join(strings.Fields(err.Error()), " "), s.name()+" is "+other.value) {
				t.Errorf("without %s: %v: why is it there?", s.name(), err)
			}
			apply(settings)
			if err := check(settings); err != nil {
				t.Error(err)
			}
		}
	})
}

// A kernel without IPv6 needs no setting of it; any other file that is missing
// is an error.
func TestSettingThatIsMissing(t *testing.T) {
	for path, fine := range map[string]bool{"ipv4/nosuchsetting": false, "ipv6/nosuchsetting": !haveIPv6()} {
		if err := applySettings([]setting{{path, "0"}}); (err == nil) != fine || !fine && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
