package jail

import (
	"net/netip"
	"testing"
)

func TestResolvConf(t *testing.T) {
	server, server6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::53")
	for _, tt := range []struct {
		name    string
		servers []netip.Addr
		search  []string
		want    string
	}{
		{"no server", nil, nil, ""},
		{"search without a server", nil, []string{"corp.example"}, ""},
		{"servers", []netip.Addr{server, server6}, nil, "nameserver 10.0.0.1\nnameserver fd00::53\n"},
		{"both", []netip.Addr{server}, []string{"corp.example", "lan"}, "nameserver 10.0.0.1\nsearch corp.example lan\n"},
	} {
		if got := string(resolvConf(tt.servers, tt.search)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNsswitchConf(t *testing.T) {
	const mark = "# made by wgjail: removed by \"wgjail down\"\n"
	for _, tt := range []struct{ name, host, want string }{
		{"debian", "passwd:  files systemd\nhosts:   files mdns4_minimal [NOTFOUND=return] dns\n# end\n",
			mark + "passwd:  files systemd\n# end\nhosts: files dns\n"},
		{"two hosts lines, odd case and spaces", "hosts: resolve\n  Hosts : mymachines\ngroup: files", mark + "group: files\nhosts: files dns\n"},
		{"a comment about hosts stays", "# hosts: resolve\n", mark + "# hosts: resolve\nhosts: files dns\n"},
		{"empty", "", mark + "hosts: files dns\n"},
	} {
		if got := string(nsswitchConf([]byte(tt.host))); got != tt.want {
			t.Errorf("%s:\n%s\nwant:\n%s", tt.name, got, tt.want)
		}
	}
}
