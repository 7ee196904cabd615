package arrows

import (
	"bytes"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

// MachinePaths reads every text file below root and returns, as "file:line: path",
// each absolute path that would only be found on somebody's machine: one that is,
// or lies below, one of the folders.
func MachinePaths(root fs.FS, folders ...string) ([]string, error) {
	for i, f := range folders {
		folders[i] = regexp.QuoteMeta(f)
	}
	path, err := regexp.Compile(`(?:^|[^\w./~$}-])((?:` + strings.Join(folders, "|") + `)(?:/[\w./-]*|\b))`)
	if err != nil {
		return nil, err
	}
	var found []string
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" { // a folder, or a file in a second work tree
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			return err
		}
		for i, line := range strings.Split(string(text), "\n") {
			if m := path.FindStringSubmatch(line); m != nil {
				found = append(found, fmt.Sprintf("%s:%d: %s", name, i+1, m[1]))
			}
		}
		return nil
	})
	return found, err
}

// DirectModules returns the modules that the text of a go.mod file requires
// without the comment "// indirect".
func DirectModules(gomod string) []string {
	var modules []string
	inBlock := false
	for line := range strings.Lines(gomod) {
		code, comment, _ := strings.Cut(line, "//")
		fields := strings.Fields(code)
		switch {
		case len(fields) == 2 && fields[0] == "require" && fields[1] == "(":
			inBlock = true
			continue
		case len(fields) == 1 && fields[0] == ")":
			inBlock = false
		case len(fields) == 3 && fields[0] == "require":
			fields = fields[1:]
		case !inBlock:
			continue
		}
		if len(fields) == 2 && strings.TrimSpace(comment) != "indirect" {
			modules = append(modules, fields[0])
		}
	}
	return modules
}
