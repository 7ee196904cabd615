package hint_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wgjail/wgjail/internal/hint"
)

func TestOutermostHint(t *testing.T) {
	inner := hint.Wrap(errors.New("it broke"), "mend %s", "it")
	err := hint.Wrap(errors.Join(errors.New("other"), inner), "get another one")
	if got := hint.Of(err); got != "get another one" {
		t.Errorf("the hint is %q", got)
	}
	if got := hint.Of(inner); got != "mend it" || inner.Error() != "it broke" {
		t.Errorf("%q, %q", inner, got)
	}
	if hint.Wrap(nil, "nothing") != nil || hint.Of(errors.New("plain")) != "" {
		t.Error("a hint without an error, or without a hint")
	}
}

// Every hint in the source is triggered by a test, which wants to read it: a
// clause of it stands in a test or a script.
func TestEveryHintIsTriggered(t *testing.T) {
	tests := tested(t)
	hints := 0
	for place, format := range formats(t) {
		clauses := regexp.MustCompile(`%[-+#0-9.\[\]]*[a-zA-Z%]|[:;,()]`).Split(format, -1)
		clauses = slices.DeleteFunc(clauses, func(c string) bool { return len(strings.TrimSpace(c)) < 8 })
		if len(clauses) == 0 { // another's text passed on, or a value
			continue
		}
		hints++
		read := slices.ContainsFunc(clauses, func(c string) bool { return strings.Contains(tests, strings.TrimSpace(c)) })
		why := unreachable[strings.TrimSpace(clauses[0])]
		switch {
		case !read && why == "":
			t.Errorf("%s: no test wants to read: %s", place, format)
		case read && why != "":
			t.Errorf("%s: a test reads it after all, although %s", place, why)
		}
	}
	if hints < 100 {
		t.Errorf("only %d hints were found in the source", hints)
	}
}

// unreachable are hints that no test can bring about here, with the reason.
var unreachable = map[string]string{
	"the kernel needs nf_tables and nf_conntrack":                      "kernels that tests run on have them",
	"the routes of the host and the tunnel leave no private addresses": "a host with routes to all private networks of both families is not to be had cheaply",
}

// formats returns the format of each hint in the source, by its place.
func formats(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	walk(t, func(path string) bool { return strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") }, func(path string, text []byte) {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || f.Sel.Name != "Wrap" {
				return true
			}
			if x, ok := f.X.(*ast.Ident); !ok || x.Name != "hint" {
				return true
			}
			ast.Inspect(call.Args[1], func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					s, _ := strconv.Unquote(lit.Value) // the parser has accepted it
					all[set.Position(lit.Pos()).String()] = s
				}
				return true
			})
			return true
		})
	})
	return all
}

// tested returns the text of all tests, scripts and tables of tests.
func tested(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	walk(t, func(path string) bool {
		return strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, "hint/hint_test.go") || strings.Contains(path, "/testdata/")
	}, func(_ string, text []byte) {
		b.Write(text)
	})
	return strings.NewReplacer(`\"`, `"`, `\?`, "?", `\.`, ".", `\(`, "(", `\)`, ")", `\[`, "[", `\+`, "+").Replace(b.String())
}

func walk(t *testing.T, wanted func(path string) bool, read func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !wanted(filepath.ToSlash(path)) {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil {
			read(path, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
