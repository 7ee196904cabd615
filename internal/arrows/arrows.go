package arrows

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Rules says which packages a package may use. Folders are relative to the
// module's root, and stand for everything below them that has no rule of its own.
type Rules struct {
	Module string // import path of the root

	// Packages lists, for each folder, the folders of this module that it may
	// import besides itself and what lies below it. A folder that no line
	// covers is reported.
	Packages map[string][]string

	// Tests lists what test files may import besides that.
	Tests []string

	// Homes lists, for an import path and all below it, the folders that may
	// import it. An import from outside the standard library and this module
	// that no line covers is reported.
	Homes map[string][]string

	// Names lists, for an exported name ("runtime.LockOSThread"), the folders
	// that may use it.
	Names map[string][]string
}

// Check reads every Go file below root and returns what breaks a rule, as
// "file:line: what is wrong", in the order of the files. Files that the go
// command ignores because of their folder (testdata, .x, _x) are not read.
func (r Rules) Check(root fs.FS) ([]string, error) {
	var wrong []string
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := path.Base(name)
			if name != "." && (base == "testdata" || base[0] == '.' || base[0] == '_') {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		found, err := r.checkFile(name, text)
		wrong = append(wrong, found...)
		return err
	})
	return wrong, err
}

// file is one source file while it is checked.
type file struct {
	Rules
	folder string
	test   bool
	names  map[string]string // import path by the name that the file gives it
	report func(pos token.Pos, format string, args ...any)
}

func (r Rules) checkFile(name string, text []byte) ([]string, error) {
	set := token.NewFileSet()
	syntax, err := parser.ParseFile(set, name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parse %w", err)
	}
	var wrong []string
	f := file{
		Rules:  r,
		folder: path.Dir(name),
		test:   strings.HasSuffix(name, "_test.go"),
		names:  make(map[string]string),
		report: func(pos token.Pos, format string, args ...any) {
			p := set.Position(pos)
			wrong = append(wrong, fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, fmt.Sprintf(format, args...)))
		},
	}
	if _, ok := nearest(f.Packages, f.folder); !ok {
		f.report(syntax.Package, "no rule says what %s may import", f.folder)
	}
	for _, spec := range syntax.Imports {
		f.checkImport(spec)
	}
	ast.Inspect(syntax, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			f.checkName(sel)
		}
		return true
	})
	return wrong, nil
}

func (f file) checkImport(spec *ast.ImportSpec) {
	imported, _ := strconv.Unquote(spec.Path.Value) // the parser has accepted it
	local := path.Base(imported)
	if spec.Name != nil {
		local = spec.Name.Name
	}
	f.names[local] = imported
	if local == "." {
		f.report(spec.Pos(), "%s is imported with a dot, which hides where a name is from", imported)
	}

	if folder, ok := below(imported, f.Module); ok {
		may, _ := nearest(f.Packages, f.folder)
		if f.test {
			may = slices.Concat(may, f.Tests)
		}
		if _, own := below(folder, f.folder); !own && !covers(may, folder) {
			f.report(spec.Pos(), "%s may not import %s", f.folder, folder)
		}
		return
	}
	homes, ok := nearest(f.Homes, imported)
	if !ok && strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") {
		f.report(spec.Pos(), "no rule gives %s a home", imported)
	}
	if ok && !f.allowed(homes) {
		f.report(spec.Pos(), "%s may not import %s; its home: %s", f.folder, imported, list(homes))
	}
}

func (f file) checkName(sel *ast.SelectorExpr) {
	x, ok := sel.X.(*ast.Ident)
	if !ok {
		return
	}
	name := f.names[x.Name] + "." + sel.Sel.Name
	if homes, ok := f.Names[name]; ok && !f.allowed(homes) {
		f.report(sel.Pos(), "%s may not use %s; its home: %s", f.folder, name, list(homes))
	}
}

// allowed says whether the file lies in one of the folders.
func (f file) allowed(folders []string) bool {
	return slices.Contains(folders, anywhere) ||
		f.test && slices.Contains(folders, inTests) ||
		covers(folders, f.folder)
}

func covers(folders []string, folder string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { _, ok := below(folder, f); return ok })
}

// below says whether p is root or lies below it, and returns its path from there.
func below(p, root string) (string, bool) {
	if p == root {
		return ".", true
	}
	return strings.CutPrefix(p, root+"/")
}

// nearest returns the value for p or for the closest path above it.
func nearest(m map[string][]string, p string) ([]string, bool) {
	for ; p != "." && p != "/"; p = path.Dir(p) {
		if v, ok := m[p]; ok {
			return v, true
		}
	}
	return nil, false
}

func list(folders []string) string {
	if len(folders) == 0 {
		return "none"
	}
	return strings.Join(folders, ", ")
}
