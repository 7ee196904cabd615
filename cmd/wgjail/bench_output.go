package main

import (
	"errors"
	"io"
	"os"

	"github.com/wgjail/wgjail/bench/report"
)

// benchOutputs are where a report goes. Files are opened before anything is
// measured: it would be a pity to find out afterwards. They keep what is in them
// until there is something to write.
type benchOutputs []benchOutput

type benchOutput struct {
	to    io.Writer
	file  *os.File // nil: standard output
	fresh bool     // it was made for this
	write func(*report.Report, io.Writer) error
}

func (f *benchFlags) open(stdout io.Writer) (benchOutputs, error) {
	if f.asJSON && f.csvFile == "-" {
		return nil, misused("--json and --csv - both want standard output")
	}
	var outputs benchOutputs
	switch {
	case f.asJSON:
		outputs = append(outputs, benchOutput{to: stdout, write: (*report.Report).Write})
	case f.csvFile == "-":
		outputs = append(outputs, benchOutput{to: stdout, write: (*report.Report).CSV})
	default:
		outputs = append(outputs, benchOutput{to: stdout, write: (*report.Report).Text})
	}
	for _, o := range []struct {
		path  string
		write func(*report.Report, io.Writer) error
	}{{f.csvFile, (*report.Report).CSV}, {f.htmlFile, (*report.Report).HTML}} {
		if o.path == "" || o.path == "-" {
			continue
		}
		_, err := os.Lstat(o.path)
		fresh := errors.Is(err, os.ErrNotExist)
		file, err := os.OpenFile(o.path, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return nil, errors.Join(err, outputs.discard())
		}
		outputs = append(outputs, benchOutput{file, file, fresh, o.write})
	}
	return outputs, nil
}

// write writes the report everywhere, and goes on past errors.
func (outputs benchOutputs) write(r *report.Report) error {
	var errs []error
	for _, o := range outputs {
		if o.file != nil {
			o.file.Truncate(0) // fails for a pipe, which has nothing to lose
		}
		errs = append(errs, o.write(r, o.to))
		if o.file != nil {
			errs = append(errs, o.file.Close())
		}
	}
	return errors.Join(errs...)
}

// discard leaves the files as they were.
func (outputs benchOutputs) discard() error {
	var errs []error
	for _, o := range outputs {
		if o.file != nil {
			errs = append(errs, o.file.Close())
		}
		if o.fresh {
			errs = append(errs, os.Remove(o.file.Name()))
		}
	}
	return errors.Join(errs...)
}
