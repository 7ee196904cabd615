package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every threat has its row in docs/threats.md, every test that is named there
// exists, and every state of a test in quotation marks is one of its.
func TestThreats(t *testing.T) {
	text, err := os.ReadFile("../../docs/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testSources(t)
	for n := 1; n <= 37; n++ {
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^\| L%d \|.*(Test|Fuzz)\w+.*\|$`, n)).Match(text) {
			t.Errorf("L%d has no test", n)
		}
	}
	for _, name := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(string(text), -1) {
		if tests[name] == "" && name != "TestThreats" {
			t.Errorf("there is no %s", name)
		}
	}
	for line := range strings.Lines(string(text)) {
		states := regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(line, -1)
		if len(states) == 0 {
			continue
		}
		name := regexp.MustCompile(`Test\w+`).FindString(line)
		for _, state := range states {
			if !strings.Contains(tests[name], `"`+state[1]+`"`) {
				t.Errorf("%s has no state %q", name, state[1])
			}
		}
	}
}

// testSources returns the file of each test of the packages that the page is
// about.
func testSources(t *testing.T) map[string]string {
	t.Helper()
	sources := map[string]string{}
	for _, pattern := range []string{"*_test.go", "../../jail/*_test.go", "../../veth/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			if filepath.Base(file) == "threats_test.go" {
				continue
			}
			text := readText(t, file)
			for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(text, -1) {
				sources[m[1]] = text
			}
		}
	}
	return sources
}
