package main

import (
	"fmt"
	"io"
	"log/slog"
)

// A logFormat is how what is neither a result nor an error is printed. It is an
// option's value (pflag.Value).
type logFormat string

const (
	logText logFormat = "text"
	logJSON logFormat = "json"
)

func (f *logFormat) String() string { return string(*f) }
func (f *logFormat) Type() string   { return "FORMAT" }

func (f *logFormat) Set(s string) error {
	switch logFormat(s) {
	case logText, logJSON:
		*f = logFormat(s)
		return nil
	}
	return fmt.Errorf("it is %s or %s", logText, logJSON)
}

// log returns the logger for what is neither a result nor an error.
func (p *program) log(w io.Writer, least slog.Level) *slog.Logger {
	if p.debug {
		least = slog.LevelDebug
	}
	opts := &slog.HandlerOptions{Level: least}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if p.logFormat == logJSON {
		h = slog.NewJSONHandler(w, opts)
	}
	if p.wrapLog != nil {
		h = p.wrapLog(h)
	}
	return slog.New(h)
}

// logArgs are the options with which a process that this one starts logs as it
// does.
func (p *program) logArgs() []string {
	if p.logFormat == logJSON {
		return []string{"--log-format", string(logJSON)}
	}
	return nil
}
