package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// outputFormat is the value of --output.
type outputFormat string

// The forms in which a command prints what it found or did.
const (
	asTable outputFormat = "table"
	asJSON  outputFormat = "json"
	asYAML  outputFormat = "yaml"
)

var outputFormats = []string{string(asTable), string(asJSON), string(asYAML)}

// Set implements pflag.Value.
func (o *outputFormat) Set(text string) error {
	if !slices.Contains(outputFormats, text) {
		return fmt.Errorf("want %s", strings.Join(outputFormats, ", "))
	}
	*o = outputFormat(text)
	return nil
}

// String implements pflag.Value.
func (o *outputFormat) String() string { return string(*o) }

// Type implements pflag.Value.
func (o *outputFormat) Type() string { return "format" }

// silent are the commands that print nothing to be read by a program in another form than theirs.
var silent = []string{"serve", "exec", "man", "help", "completion", "bash", "zsh", "fish", "powershell"}

// withOutput gives every command below that prints the flag --output.
func withOutput(command *cobra.Command) {
	for _, one := range command.Commands() {
		withOutput(one)
	}
	if !command.Runnable() || slices.Contains(silent, command.Name()) {
		return
	}
	format := asTable
	command.Flags().VarP(&format, "output", "o", "table (for people), json or yaml")
	choices(command, "output", outputFormats...)
}

// choices completes a flag with words.
func choices(command *cobra.Command, flag string, words ...string) {
	_ = command.RegisterFlagCompletionFunc(flag, completing(func(*cobra.Command, []string, string) []string { return words })) // the flag is there, once
}

// say prints a line for people, and a value in the other forms.
func say(cmd *cobra.Command, value any, line string, arguments ...any) error {
	return show(cmd, value, func(out io.Writer) { fmt.Fprintf(out, line+"\n", arguments...) })
}

// show prints a value in the form that --output names; table prints it for people.
func show(cmd *cobra.Command, value any, table func(out io.Writer)) error {
	format, text, out := asTable, []byte(nil), cmd.OutOrStdout()
	if wanted := cmd.Flags().Lookup("output"); wanted != nil {
		format = outputFormat(wanted.Value.String())
	}
	var err error
	switch format {
	case asJSON:
		if text, err = json.MarshalIndent(value, "", "  "); err == nil {
			text = append(text, '\n')
		}
	case asYAML:
		text, err = yaml.Marshal(value)
	default:
		aligned := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		table(aligned)
		err = aligned.Flush()
	}
	if err == nil {
		_, err = out.Write(text)
	}
	if err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// sayEvery is how often a person is told how far something long is.
const sayEvery = 3 * time.Second

// progress says how far something is: nothing of what is short, and a line every few seconds of what is long.
func progress(out io.Writer) func(line string, arguments ...any) {
	next := time.Now().Add(sayEvery)
	return func(line string, arguments ...any) {
		if now := time.Now(); !now.Before(next) {
			next = now.Add(sayEvery)
			fmt.Fprintf(out, line+"\n", arguments...)
		}
	}
}

// cell is a text as a table may have it: what others wrote moves no cursor, and breaks no line.
func cell(text string) string {
	return dash(strings.Map(func(char rune) rune {
		if unicode.IsPrint(char) {
			return char
		}
		return unicode.ReplacementChar
	}, text))
}

// plain is a text as a terminal may have it: what others wrote moves no cursor.
func plain(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = cell(line)
		}
	}
	return strings.Join(lines, "\n")
}

// row prints a line of a table.
func row(out io.Writer, cells ...any) {
	for i, one := range cells {
		if i > 0 {
			fmt.Fprint(out, "\t")
		}
		switch one := one.(type) {
		case string:
			fmt.Fprint(out, cell(one))
		case time.Time:
			fmt.Fprint(out, stamp(one))
		case *time.Time:
			if one == nil {
				one = &time.Time{}
			}
			fmt.Fprint(out, stamp(*one))
		case []string:
			fmt.Fprint(out, cell(strings.Join(one, " ")))
		default:
			fmt.Fprint(out, one)
		}
	}
	fmt.Fprintln(out)
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func stamp(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.UTC().Format(time.RFC3339)
}

// seconds is a time as the wire has it.
func seconds(at time.Time) time.Time { return at.UTC().Truncate(time.Second) }
