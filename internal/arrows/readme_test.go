package arrows

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A reader learns from the README what the program is built on.
func TestReadmeNamesEveryDirectDependency(t *testing.T) {
	dir := checkout(t)
	gomod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	modules := DirectModules(string(gomod))
	if len(modules) == 0 {
		t.Fatal("go.mod has no direct dependency: is it tidy?")
	}
	for _, m := range modules {
		if !strings.Contains(string(readme), m) {
			t.Errorf("README.md does not name %s, which go.mod requires", m)
		}
	}
}
