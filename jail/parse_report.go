package jail

import (
	"fmt"
	"strings"
)

// errorf returns an error about the line being parsed. The caller adds a hint.
func (p *configParser) errorf(format string, args ...any) error {
	return p.errorAt(p.line, format, args...)
}

func (p *configParser) errorAt(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", p.file, max(line, 1), fmt.Sprintf(format, args...))
}

// maxAlike is how many warnings of one kind are worth reading.
const maxAlike = 5

func (p *configParser) warnf(format string, args ...any) { p.warnAt(p.line, format, args...) }

func (p *configParser) warnAt(line int, format string, args ...any) {
	if p.alike[format]++; p.alike[format] > maxAlike {
		p.muted++
		return
	}
	p.cfg.Warnings = append(p.cfg.Warnings, fmt.Sprintf("%s:%d: %s", p.file, max(line, 1), fmt.Sprintf(format, args...)))
}

// clean returns text without any white space, as wg reads it.
func (p *configParser) clean(text string) string {
	text = trimSpace(text)
	if !strings.ContainsAny(text, whiteSpace) {
		return text
	}
	p.scratch = p.scratch[:0]
	for i := range len(text) {
		if !isSpace(text[i]) {
			p.scratch = append(p.scratch, text[i])
		}
	}
	return string(p.scratch)
}

// isSpace is isspace(3) in the C locale, which both wg and wg-quick use.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

const whiteSpace = " \t\n\v\f\r"

func trimSpace(s string) string { return strings.Trim(s, whiteSpace) }
