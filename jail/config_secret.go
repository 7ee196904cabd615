package jail

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// HideMemory keeps keys in the process: it dumps no core, and no other process
// traces it or reads its memory, unless that has CAP_SYS_PTRACE
// (PR_SET_DUMPABLE(2const)). It lasts until the process becomes another program.
func HideMemory() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// A Secret is a private or preshared key. It shows itself only to whoever asks
// for Key: fmt, slog and encoding/json print "(hidden)", or "(none)" for the
// zero key, whatever the verb. Compare keys, not Secrets.
type Secret struct {
	// fmt calls no methods on unexported fields, nor where the verb does not
	// fit. There it follows one pointer, but not two.
	key **wgtypes.Key
}

// NewSecret returns the secret k.
func NewSecret(k wgtypes.Key) Secret {
	if k == (wgtypes.Key{}) {
		return Secret{}
	}
	p := &k
	return Secret{&p}
}

// Key returns the key itself, zero if there is none.
func (s Secret) Key() wgtypes.Key {
	if s.key == nil {
		return wgtypes.Key{}
	}
	return **s.key
}

// IsZero reports whether there is no key: WireGuard takes 32 zero bytes as none.
func (s Secret) IsZero() bool { return s.key == nil }

// String returns "(hidden)" or "(none)".
func (s Secret) String() string {
	if s.IsZero() {
		return "(none)"
	}
	return "(hidden)"
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// Format prints String, with every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue is String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String: nothing that is marshalled needs a key.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// parseKey reads a key as wg(8) does: standard base64 of exactly 32 bytes, with
// padding and no bit set that does not count.
func parseKey(s string) (wgtypes.Key, bool) {
	var key [33]byte // room for what the padding leaves out
	if len(s) != base64.StdEncoding.EncodedLen(wgtypes.KeyLen) {
		return wgtypes.Key{}, false
	}
	n, err := base64.StdEncoding.Strict().Decode(key[:], []byte(s))
	if err != nil || n != wgtypes.KeyLen {
		return wgtypes.Key{}, false
	}
	return wgtypes.Key(key[:wgtypes.KeyLen]), true
}
