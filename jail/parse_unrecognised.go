package jail

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/wgjail/wgjail/internal/hint"
)

// unrecognised says what is wrong with a line that is no setting of its
// section; k is the key that it names, or nil. Such a line may hold anything,
// a key above all, so only words of the grammar are shown.
func (p *configParser) unrecognised(k *configKey, text, clean string) error {
	name, value, assigned := strings.Cut(clean, "=")
	switch {
	case strings.HasPrefix(clean, "\ufeff"):
		return hint.Wrap(p.errorf("the file begins with a byte order mark"), "save it as UTF-8 without one")
	case clean[0] == ';':
		return hint.Wrap(p.errorf("; does not begin a comment"), "begin it with #")
	case strings.IndexFunc(clean, func(r rune) bool { return r > 0x7e }) >= 0:
		return hint.Wrap(p.errorf("the line is no setting, and has a character outside ASCII"),
			"type it anew: spaces and quotes copied from a web page or a document are not what they look like")
	case strings.Contains(trimSpace(text), "\r"):
		return hint.Wrap(p.errorf("the line has a carriage return in it"), "save the file with the line endings of Unix or Windows")
	case !assigned:
		return p.notAssigned(clean)
	case k == nil:
		return p.unknownKey(name, value)
	case k.section != p.section:
		return p.misplaced(k)
	}
	// A key of wg-quick that wg-quick did not take.
	first, _, _ := strings.Cut(text, "=")
	if p.quick || findConfigKey(trimSpace(first)) == nil {
		return hint.Wrap(p.errorf("%s is written with a space in it", k.name), "write %s = …", k.name)
	}
	return hint.Wrap(p.errorf("%s is in a section that wg-quick does not take for [Interface], because of the spaces", k.name),
		"write [Interface] without spaces")
}

// notAssigned is about a line without "=".
func (p *configParser) notAssigned(clean string) error {
	name, _, colon := strings.Cut(clean, ":")
	if k := findConfigKey(name); k != nil {
		if colon {
			return hint.Wrap(p.errorf("%s is followed by a colon", k.name), "write %s = …", k.name)
		}
		return p.valueMissing(k)
	}
	return hint.Wrap(p.errorf("the line is no section, no setting and no comment"),
		"settings are written as Name = value, comments begin with #; if this is the rest of the line above, join them")
}

// unknownKey shows the name only if it is a word that a value follows: a key
// ends with "=".
func (p *configParser) unknownKey(name, value string) error {
	if isAmnezia(name) {
		return hint.Wrap(p.errorf("%s is a setting of AmneziaWG, not of WireGuard", name),
			"get a plain WireGuard file from the provider: this one's server speaks another protocol")
	}
	err := p.errorf("the line is no known setting (not shown: it may hold a key)")
	if value != "" && isPlainWord(name) {
		err = p.errorf("the setting %s is unknown", name)
	}
	if near := nearestKey(name); near != "" {
		return hint.Wrap(err, "is %s meant?", near)
	}
	return hint.Wrap(err, "remove the line, or begin it with #: wg-quick would refuse it too")
}

func (p *configParser) misplaced(k *configKey) error {
	where := "before the first section"
	if p.section != noSection {
		where = "in " + p.section.String()
	}
	return hint.Wrap(p.errorf("%s is %s", k.name, where), "move it below the line %s", k.section)
}

func (p *configParser) valueMissing(k *configKey) error {
	return hint.Wrap(p.errorf("%s has no value", k.name), "write %s = and the value, or remove the line", k.name)
}

// isAmnezia knows the settings that AmneziaWG adds.
func isAmnezia(name string) bool {
	switch strings.ToLower(name) {
	case "jc", "jmin", "jmax", "s1", "s2", "s3", "s4", "h1", "h2", "h3", "h4", "i1", "i2", "i3", "i4", "i5", "j1", "j2", "j3", "itime":
		return true
	}
	return false
}

// nearestKey returns the key that name is a slip of the finger away from.
func nearestKey(name string) string {
	const most = 20 // names are at most this long, and so is the work
	best, distance := "", 3
	for i := range configKeys {
		k := configKeys[i].name
		if len(name) > most || len(name) < 3 {
			break
		}
		if d := editDistance(strings.ToLower(name), strings.ToLower(k)); d < distance && d < len(k)/2 {
			best, distance = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// plainWord is a word or up to three, in camel case, or an abbreviation, and up
// to two digits. Few pieces of a key look like that.
var plainWord = regexp.MustCompile(`^(([A-Z]?[a-z]{2,12}){1,3}[A-Z]{0,3}s?|[A-Z]{2,4})[0-9]{0,2}$`)

// isPlainWord reports whether s looks like the name of a setting.
func isPlainWord(s string) bool { return len(s) <= 22 && plainWord.MatchString(s) }

// quoted returns a space and s in quotes for a message, or "" where s could be
// a key or a piece of one, pasted into the wrong place. Shown are addresses,
// numbers and host names: between their separators they have no long run of
// mixed characters, as base64 has.
func quoted(s string) string {
	const longest = 80
	if s == "" || len(s) > longest {
		return ""
	}
	for run := range strings.FieldsFuncSeq(s, func(r rune) bool { return !isBase64(r) }) {
		if len(run) > 4 && !isWordAndNumber(run) {
			return ""
		}
	}
	return fmt.Sprintf(" %q", s)
}

func isBase64(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '+' || r == '/' || r == '='
}

// isWordAndNumber takes 51820, wireguard, server01, +10, 0xca6c, and the end of
// 10.0.0.0/33.
func isWordAndNumber(s string) bool {
	if len(s) <= 10 && strings.HasPrefix(strings.ToLower(s), "0x") {
		return true
	}
	s = strings.TrimLeft(s, "+-")
	if host, length, ok := strings.Cut(s, "/"); ok {
		return len(host) <= 4 && strings.Trim(length, "0123456789") == "" && len(length) <= 5
	}
	letters := strings.TrimRight(s, "0123456789")
	if len(s)-len(letters) > 4 && letters != "" {
		return false
	}
	return strings.Trim(letters, "abcdefghijklmnopqrstuvwxyz") == "" && len(letters) <= 20
}
