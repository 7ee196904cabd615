package portmap

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(s), []byte(" "), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var nonce = [12]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}

// The bytes of the RFCs.
func TestQueries(t *testing.T) {
	for _, tt := range []struct {
		got  []byte
		want string
	}{
		{natpmpQuery("udp", 0, 1, time.Minute), "00 01 0000 0000 0001 0000003c"},
		{natpmpQuery("tcp", 8080, 40000, 0), "00 02 0000 1f90 9c40 00000000"},
		{pcpQuery(netip.MustParseAddr("10.64.0.2"), nonce, "udp", 8080, 40000, 2*time.Hour),
			"02 01 0000 00001c20 00000000 00000000 0000ffff 0a400002 01020304 05060708 090a0b0c 11 000000 1f90 9c40 00000000 00000000 0000ffff 00000000"},
		{pcpQuery(netip.MustParseAddr("fd64::2"), nonce, "tcp", 8080, 0, 0),
			"02 01 0000 00000000 fd640000 00000000 00000000 00000002 01020304 05060708 090a0b0c 06 000000 1f90 0000 00000000 00000000 00000000 00000000"},
	} {
		if want := unhex(t, tt.want); !bytes.Equal(tt.got, want) {
			t.Errorf("got %x, want %x", tt.got, want)
		}
	}
}

func TestResponses(t *testing.T) {
	const pcpTail = " 0001 00000000 00000000 00000000 01020304 05060708 090a0b0c 11 000000 1f90 9c40 00000000 00000000 0000ffff c6336501"
	granted := Mapping{8080, 40000, time.Minute}
	for name, tt := range map[string]struct {
		protocol Protocol
		b        string
		m        Mapping
		ours     bool
		code     int // of a Refusal, or -1 for ErrVersion
	}{
		"granted":               {NATPMP, "00 81 0000 00000001 1f90 9c40 0000003c", granted, true, 0},
		"refused":               {NATPMP, "00 81 0002 00000001", Mapping{}, true, 2},
		"refused at length":     {NATPMP, "00 81 0004 00000001 1f90 0000 00000000", Mapping{}, true, 4},
		"no such version":       {NATPMP, "00 81 0001 00000001", Mapping{}, true, -1},
		"a gateway of PCP":      {NATPMP, "02 81 0001 00000000 00000001 00000000 00000000 00000000", Mapping{}, true, -1},
		"for TCP":               {NATPMP, "00 82 0000 00000001 1f90 9c40 0000003c", Mapping{}, false, 0},
		"for another port":      {NATPMP, "00 81 0000 00000001 1f91 9c40 0000003c", Mapping{}, false, 0},
		"a request":             {NATPMP, "00 01 0000 1f90 9c40 0000003c", Mapping{}, false, 0},
		"too short":             {NATPMP, "00 81 0000 00000001 1f90", Mapping{}, false, 0},
		"nothing":               {NATPMP, "", Mapping{}, false, 0},
		"PCP granted":           {PCP, "02 81 00 00 0000003c 0000" + pcpTail, granted, true, 0},
		"PCP refused":           {PCP, "02 81 00 08 0000003c 0000" + pcpTail, Mapping{}, true, 8},
		"PCP no such version":   {PCP, "02 81 00 01 0000003c 0000" + pcpTail, Mapping{}, true, -1},
		"a gateway of NAT-PMP":  {PCP, "00 81 0001 00000001", Mapping{}, true, -1},
		"PCP another's":         {PCP, "02 81 00 00 0000003c 0000" + pcpTail[:len(" 0001 00000000 00000000 00000000 ")] + "ff" + pcpTail[len(" 0001 00000000 00000000 00000000 ")+2:], Mapping{}, false, 0},
		"PCP another operation": {PCP, "02 82 00 00 0000003c 0000" + pcpTail, Mapping{}, false, 0},
		"PCP too short":         {PCP, "02 81 00 00 0000003c 0000 0000 0001", Mapping{}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(b []byte) (Mapping, bool, error) { return readNATPMP(b, "udp", 8080) }
			if tt.protocol == PCP {
				read = func(b []byte) (Mapping, bool, error) { return readPCP(b, nonce, "udp", 8080) }
			}
			m, ours, err := read(unhex(t, tt.b))
			var refusal *Refusal
			switch {
			case m != tt.m || ours != tt.ours:
				t.Errorf("%+v, %v; want %+v, %v", m, ours, tt.m, tt.ours)
			case tt.code == 0 && err != nil,
				tt.code < 0 && !errors.Is(err, ErrVersion),
				tt.code > 0 && (!errors.As(err, &refusal) || refusal.Code != tt.code || refusal.Protocol != tt.protocol):
				t.Errorf("%v; want result %d", err, tt.code)
			}
		})
	}
}

// gateway answers at an address of this host as answer says.
func gateway(t *testing.T, answer func(n int, query []byte) [][]byte) *Client {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2000)
		for n := 0; ; n++ {
			size, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, b := range answer(n, buf[:size]) {
				c.WriteTo(b, from)
			}
		}
	}()
	return &Client{Protocol: NATPMP, Gateway: netip.MustParseAddr("127.0.0.1"),
		Dial: func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			if network != "udp" || to.Port() != 5351 {
				t.Errorf("dials %s %v", network, to)
			}
			return new(net.Dialer).DialContext(ctx, network, c.LocalAddr().String())
		}}
}

// An answer that is lost is asked for again, and one that is none is not taken.
func TestMapAsksAgain(t *testing.T) {
	good := unhex(t, "00 81 0000 00000001 1f90 9c40 0000003c")
	c := gateway(t, func(n int, query []byte) [][]byte {
		switch n {
		case 0:
			return nil
		case 1:
			return [][]byte{unhex(t, "00 82 0000 00000001 1f90 9c41 0000003c"), {}, good}
		}
		return [][]byte{good}
	})
	m, err := c.Map(t.Context(), "udp", 8080, 0, time.Minute)
	if want := (Mapping{8080, 40000, time.Minute}); err != nil || m != want {
		t.Errorf("%+v, %v; want %+v", m, err, want)
	}
}

func TestMapFails(t *testing.T) {
	silent := gateway(t, func(int, []byte) [][]byte { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := silent.Map(ctx, "udp", 1, 1, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an answer: %v", err)
	}
	nobody := gateway(t, nil)
	nobody.Dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:1")
	}
	if _, err := nobody.Map(t.Context(), "udp", 1, 1, time.Minute); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("where nobody listens: %v", err)
	}
	refusing := gateway(t, func(int, []byte) [][]byte { return [][]byte{unhex(t, "00 81 0002 00000001")} })
	if _, err := refusing.Map(t.Context(), "udp", 1, 1, time.Minute); err == nil || err.Error() != "the gateway says: not authorized (natpmp result 2)" {
		t.Errorf("refused: %v", err)
	}
}

// Whatever comes is read or refused.
func FuzzResponses(f *testing.F) {
	f.Add(unhex(f, "00 81 0000 00000001 1f90 9c40 0000003c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, read := range []func() (Mapping, bool, error){
			func() (Mapping, bool, error) { return readNATPMP(b, "udp", 8080) },
			func() (Mapping, bool, error) { return readPCP(b, nonce, "udp", 8080) },
		} {
			if m, ours, err := read(); m != (Mapping{}) && (!ours || err != nil || m.Internal != 8080) {
				t.Errorf("%+v, %v, %v", m, ours, err)
			}
		}
	})
}
