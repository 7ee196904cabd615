package jail

import (
	"bufio"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/world"
)

// A corpusEntry is one input with the verdicts of two versions of wg. The
// meaning and the message are those of 1.0.20210914.
type corpusEntry struct {
	Name   string
	Conf   string
	Old    bool `json:"accept_1.0.20210914"`
	New    bool `json:"accept_1.0.20260223"`
	UAPI   []string
	Stderr string
}

func readCorpus(tb testing.TB) (list []corpusEntry) {
	tb.Helper()
	f, err := os.Open("testdata/config/corpus.jsonl")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var e corpusEntry
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			tb.Fatal(err)
		}
		list = append(list, e)
	}
	if len(list) < 80 {
		tb.Fatalf("the corpus has only %d entries", len(list))
	}
	return list
}

// corpusDeviations are the entries whose verdict differs from that of the
// newer wg, with a piece of the error, or "" where the parser accepts.
var corpusDeviations = map[string]struct{ reason, wantErr string }{
	"only [Interface]":            {"no PrivateKey (1.6.4)", "[Interface] has no PrivateKey"},
	"no iface section, only peer": {"no PrivateKey (1.6.4)", "[Interface] has no PrivateKey"},
	"NUL in line":                 {"NUL (1.6.3)", "NUL byte"},
	"port 65536":                  {"wg wraps (1.6.1)", "is no port"},
	"privkey zeros":               {"no key (1.6.4)", "all zeros"},
	"ep v4 port 65536":            {"wg wraps (1.6.1)", "is no port"},
	"ep v6 scope bad":             {"zones are looked up by up, not by the parser", ""},
	"ep short v4 1.2":             {"inet_aton (1.6.2)", "neither a complete IP address"},
	"ep int v4":                   {"inet_aton (1.6.2)", "neither a complete IP address"},
	"ep octal v4":                 {"inet_aton (1.6.2)", "neither a complete IP address"},
	"aip +":                       {"meaningless in a jail (1.2)", "+ and - change the list"},
	"aip -":                       {"meaningless in a jail (1.2)", "+ and - change the list"},
}

// Every entry has the newer wg's verdict, or is in the list above; and every
// accepted one has wg's meaning.
func TestParseConfigCorpus(t *testing.T) {
	unused := maps.Clone(corpusDeviations)
	for _, e := range readCorpus(t) {
		// The entries are about wg alone: complete them to a jail, at the end.
		conf := strings.TrimSuffix(e.Conf, "\n") + "\n[Interface]\nAddress = 10.64.0.2/32\n"
		if !strings.Contains(conf, "[Peer]") {
			conf += "[Peer]\nPublicKey = " + testKey3 + "\n"
		}
		_, err := ParseConfig("vpn.conf", strings.NewReader(conf))
		d, deviates := corpusDeviations[e.Name]
		delete(unused, e.Name)
		switch {
		case !deviates && (err == nil) != e.New:
			t.Errorf("%s: wg accepts: %v, got %v", e.Name, e.New, err)
		case deviates && (err == nil) == e.New:
			t.Errorf("%s: listed as a deviation (%s), but wg and ParseConfig agree: %v", e.Name, d.reason, err)
		case deviates && err != nil && !strings.Contains(err.Error(), d.wantErr):
			t.Errorf("%s: got error %v, want %q", e.Name, err, d.wantErr)
		}
		if e.UAPI != nil {
			if problem := disagreement(e.Conf, wgVerdict{accepted: true, uapi: normaliseUAPI(e.UAPI)}); problem != "" {
				t.Errorf("%s: %s", e.Name, problem)
			}
		}
	}
	for name := range unused {
		t.Errorf("%s: listed as a deviation, but not in the corpus", name)
	}
}

// seeds are the texts that mutations and the fuzzer start from.
func seeds(tb testing.TB) (list []string) {
	for _, e := range readCorpus(tb) {
		list = append(list, e.Conf)
	}
	for name, list2 := range map[string][]string{
		"ListenPort":          {"010", "+5", "-1", "-0", "*", "domain", "65537", "4294967301", "18446744073709551617", "5 1 8 2 0"},
		"FwMark":              {"0xca6c", "0x", "0X1", "4294967296", "0x100000000", "00000000000000000005", "0x0x1", "off"},
		"PrivateKey":          {testKey3, zeroKey, "(none)", testKey1[:20] + " " + testKey1[20:], testKey1 + "="},
		"PublicKey":           {testKey2, zeroKey},
		"PresharedKey":        {testKey3, zeroKey, "(none)"},
		"Endpoint":            {"vpn.example.com:51820", "[vpn.example.com]:1", "2001:db8::1:51820", "[::]:1", "[1:2:3:4:5:6:7::]:1", "::ffff:1.2.3.4:1", "[fe80::1%1]:1", "[2001:db8::1%5]:1", "*:1", "1.2.3.4:*", "1.2.3:1", "0x1.2.3.4:1", "1.2.3.4.:1", "a..b:1", "[]:1", "[::1]:1:2", "[::1%]:1"},
		"AllowedIPs":          {"10.0.0.1/08,::/0", "1.2.3.4", "::", "10.0.0.0/+8", "1:2:3:4:5:6:7::/112", "::1.2.3.4/128", "::01.2.3.4", "00001::/16", "1::2::3", "+10.0.0.0/8", "0.0.0.0/1,128.0.0.0/1", "10.0.0.0/8/8", ",", "1.2.3.4/32,", "255.255.255.255/0"},
		"PersistentKeepalive": {"025", "25s", "0x19", "oFf", "65536", "+1", "99999999999999999999"},
	} {
		k := findConfigKey(name)
		for _, value := range list2 {
			if k.section == peerSection {
				list = append(list, "[Interface]\nPrivateKey="+testKey1+"\n[Peer]\nPublicKey="+testKey2+"\n"+name+" = "+value+"\n")
			} else {
				list = append(list, "[Interface]\n"+name+" = "+value+"\n")
			}
		}
	}
	slices.Sort(list) // maps have no order
	return list
}

// quickSeeds are those that take wg-quick to judge, which is slow.
func quickSeeds() (list []string) {
	list = append(list, acceptExample, iface(""), peer("Endpoint = vpn.example.com:51820"))
	for _, line := range []string{
		"Address =", "Ad dress = 10.0.0.1", "address=10.0.0.1,,fd00::1", "Address", "Address # = 1.2.3.4", "\vAddress\f=\r10.0.0.1\v",
		"[ Interface ]\nAddress = 10.0.0.1", "[Interface] # c\nAddress = 10.0.0.1", "[Interface]=\nDNS = 1.1.1.1", "[Peer]\nMTU = 1",
		"DNS =", "DNS = 1.1.1.1;2.2.2.2", "MTU = ", "MTU = 1420 # c", "MTU = 1420 c", "Table = off", "Table =", "T able = off",
		"SaveConfig = tRue", "SaveConfig = yes", "SaveConfig =", "SaveConfig", "PostUp = a = b # c", "PostUp", "PostUp: x", "#PostUp = x", "Pos\ttUp = x",
	} {
		list = append(list, iface(line))
	}
	return list
}

// The parser and the installed wg agree about the corpus, the examples, and
// some thousand texts made from them.
func TestParseConfigLikeWG(t *testing.T) {
	t.Parallel()
	o, err := newWGOracle(t)
	if err != nil {
		world.Skip(t, "%v", err)
	}
	agree := func(text string) (accepted bool) {
		v := o.judge(t, text)
		if problem := disagreement(text, v); problem != "" {
			t.Errorf("%q: %s", text, problem)
		}
		return v.accepted
	}
	slow := quickSeeds()
	for _, tt := range slow {
		agree(tt)
	}
	fast := seeds(t)
	for _, text := range fast {
		agree(text)
	}
	random := rand.New(rand.NewPCG(1, 2))
	mutations := 1500
	if testing.Short() {
		mutations = 300
	}
	accepted := 0
	for i := range mutations {
		from := fast
		if i%50 == 0 {
			from = slow
		}
		text := from[random.IntN(len(from))]
		for range 1 + random.IntN(3) {
			text = mutate(random, text, from)
		}
		if agree(text) {
			accepted++
		}
	}
	t.Logf("wg accepted %d of %d mutations", accepted, mutations)
	if accepted < mutations/10 || accepted > mutations*9/10 {
		t.Errorf("the mutations tell too little: wg accepted %d of %d", accepted, mutations)
	}
}

var configToken = regexp.MustCompile(`[A-Za-z0-9]+|[^A-Za-z0-9]`)

// mutate changes text in one place.
func mutate(r *rand.Rand, text string, others []string) string {
	const specials = " \t\r\v\f#;=[],:/+-%.*0x\\\"'\n\x00\x01\x7f\u00a0"
	at := r.IntN(len(text) + 1)
	lines := strings.SplitAfter(text, "\n")
	line := r.IntN(len(lines))
	switch r.IntN(9) {
	case 0: // a character less
		return text[:max(at-1, 0)] + text[at:]
	case 1: // one more
		c := specials[r.IntN(len(specials))]
		return text[:at] + string(c) + text[at:]
	case 2: // another
		return text[:max(at-1, 0)] + string(byte(' '+r.IntN(95))) + text[at:]
	case 3: // capitals
		return text[:at] + strings.ToUpper(text[at:min(at+5, len(text))]) + text[min(at+5, len(text)):]
	case 4: // a line less
		return strings.Join(slices.Delete(lines, line, line+1), "")
	case 5: // a line twice
		return strings.Join(slices.Insert(lines, line, lines[line]), "")
	case 6: // a line of another text
		other := strings.SplitAfter(others[r.IntN(len(others))], "\n")
		return strings.Join(slices.Insert(lines, line, other[r.IntN(len(other))]), "")
	case 7: // two lines change places
		other := r.IntN(len(lines))
		lines[line], lines[other] = lines[other], lines[line]
		return strings.Join(lines, "")
	default: // a token of another text
		tokens := configToken.FindAllString(lines[line], -1)
		donor := configToken.FindAllString(others[r.IntN(len(others))], -1)
		if len(tokens) == 0 || len(donor) == 0 {
			return text
		}
		tokens[r.IntN(len(tokens))] = donor[r.IntN(len(donor))]
		lines[line] = strings.Join(tokens, "")
		return strings.Join(lines, "")
	}
}

// FuzzParseConfig looks for panics, for keys in messages and, where wg is
// installed, for texts about which it and the parser disagree.
func FuzzParseConfig(f *testing.F) {
	for _, text := range append(seeds(f), quickSeeds()...) {
		f.Add(text)
	}
	o, err := newWGOracle(f)
	if err != nil {
		f.Logf("not compared with wg: %v", err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if o != nil {
			if problem := disagreement(text, o.judge(t, text)); problem != "" {
				t.Error(problem)
			}
		}
		_, err := ParseConfig("vpn.conf", strings.NewReader(text))
		if err != nil && !lineNumber.MatchString(err.Error()) {
			t.Errorf("error without a line: %v", err)
		}
	})
}
