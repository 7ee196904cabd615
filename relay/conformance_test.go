package relay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every property has its row in CONFORMANCE.md, every test that a row names
// exists, and every test that says that it is for a row is named there.
func TestConformance(t *testing.T) {
	rows := conformanceRows(t)
	if len(rows) != 27 {
		t.Errorf("%d rows; want R1 to R27", len(rows))
	}
	there := map[string][]string{} // by test, the rows that it says it is for
	for _, pattern := range []string{"*_test.go", "../cmd/wgjail/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)((?:^//.*\n)*)^func (Test\w+)\(t \*testing\.T\)`).FindAllStringSubmatch(string(text), -1) {
				there[m[2]] = claims(m[1])
			}
		}
	}
	for row, tests := range rows {
		if len(tests) == 0 {
			t.Errorf("%s has no test", row)
		}
		for _, name := range tests {
			if _, ok := there[name]; !ok {
				t.Errorf("%s: there is no %s", row, name)
			}
		}
	}
	for name, claimed := range there {
		for _, row := range claimed {
			if !slices.Contains(rows[row], name) {
				t.Errorf("%s says that it is for %s, which does not name it", name, row)
			}
		}
	}
}

// conformanceRows returns the tests of each row.
func conformanceRows(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.HasPrefix(cells[1], " R") {
			continue
		}
		row := strings.TrimSpace(cells[1])
		if rows[row] != nil || row != fmt.Sprintf("R%d", len(rows)+1) {
			t.Errorf("row %s comes after row R%d", row, len(rows))
		}
		rows[row] = regexp.MustCompile(`\w+`).FindAllString(cells[3], -1)
	}
	return rows
}

// claims returns the rows that a comment names in brackets: (R1, R3 to R5).
func claims(comment string) (rows []string) {
	comment = strings.ReplaceAll(comment, "\n// ", " ")
	for _, m := range regexp.MustCompile(`\((R\d[R\d, to]*)\)`).FindAllStringSubmatch(comment, -1) {
		for part := range strings.SplitSeq(m[1], ", ") {
			var first, last int
			if n, _ := fmt.Sscanf(part, "R%d to R%d", &first, &last); n < 2 {
				last = first
			}
			for i := first; i <= last; i++ {
				rows = append(rows, fmt.Sprintf("R%d", i))
			}
		}
	}
	return rows
}
