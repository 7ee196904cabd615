package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wgjail/wgjail/internal/provider"
)

//go:embed demo_page.html
var demoPageText string

// demoPageCommand is the program that the demo runs in the jail: a web page
// that fetches something itself.
func (p *program) demoPageCommand() *cobra.Command {
	return &cobra.Command{
		Use: "demo-page", Hidden: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := net.Listen("tcp", demoPage.String())
			if err != nil {
				return err
			}
			mux := http.NewServeMux()
			mux.HandleFunc("GET /{$}", servePage)
			mux.HandleFunc("GET /fetch", serveFetch)
			fmt.Fprintln(p.out, "listening")
			return http.Serve(l, mux)
		},
	}
}

// whoami is the address of a server behind the provider that says whom it sees.
func whoami(canary string) string {
	return fmt.Sprintf("http://%s/?canary=%s", provider.ServerV4, url.QueryEscape(canary))
}

// serveFetch asks the outside who this program is there.
func serveFetch(w http.ResponseWriter, r *http.Request) {
	seen, err := fetch(r.Context(), whoami(r.FormValue("canary")))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprint(w, seen)
}

var demoTemplate = template.Must(template.New("page").Parse(demoPageText))

func servePage(w http.ResponseWriter, r *http.Request) {
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	seen, err := fetch(r.Context(), whoami(""))
	seen = strings.TrimSpace(seen)
	if err != nil {
		seen = "nothing: " + err.Error()
	}
	var links []string
	if names, err := os.ReadDir("/sys/class/net"); err == nil {
		for _, n := range names {
			links = append(links, n.Name())
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	demoTemplate.Execute(w, map[string]any{"Client": client, "Seen": seen, "Links": links, "UID": os.Getuid()})
}
