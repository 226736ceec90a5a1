package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

func (a *app) deadlettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deadletters",
		Short: "Look at what could not be accepted, and repair it",
		Long: `Look at what could not be accepted, and repair it.

A dead letter is an event, or a whole message, that was published past the door of a node and
broke a rule there. It is kept with the field and the reason until it is replayed (published again
as it is), fixed (published with corrections), or dropped. What is published again keeps its
event_id, by which a duplicate is recognised, and loses producer and sequence.`,
		Example: `  footfall deadletters list
  footfall deadletters show 3-1041-0
  footfall deadletters fix 3-1041-0 --set purchase.lines[0].amount=1.50
  footfall deadletters replay --all --reason "past the end of the last day"
  footfall deadletters drop 3-1041-0`,
		Args: subcommands(),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.lettersListCommand(), a.lettersShowCommand(), a.lettersFixCommand(), a.lettersReplayCommand(), a.lettersDropCommand())
	return cmd
}

func (a *app) lettersListCommand() *cobra.Command {
	var limit uint32
	var filter letterFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, the oldest of each log first",
		Example: `  footfall deadletters list --limit 20
  footfall deadletters list --reason purchase.lines --output json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			letters, err := c.ListDeadLetters(cmd.Context(), &footfallv1.ListDeadLettersRequest{
				Limit: limit, Reason: filter.reason, CustomerId: filter.customer, Source: filter.source,
			})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(letters)
			}
			return a.printLetters(letters, filter)
		},
	}
	cmd.Flags().Uint32Var(&limit, "limit", 100, "at most so many")
	filter.flags(cmd, "only those ")
	return cmd
}

// letterFilter is what letters are chosen by.
type letterFilter struct{ reason, customer, source string }

func (f *letterFilter) flags(cmd *cobra.Command, only string) {
	cmd.Flags().StringVar(&f.reason, "reason", "", only+"whose field or reason contains this text")
	cmd.Flags().StringVar(&f.customer, "customer", "", only+"of this customer")
	cmd.Flags().StringVar(&f.source, "source", "", only+"out of this log or queue, such as footfall.events.3")
}

func (a *app) printLetters(letters *footfallv1.ListDeadLettersResponse, filter letterFilter) error {
	if len(letters.GetLetters()) == 0 {
		none := "No dead letters: everything in the log could be folded."
		if filter != (letterFilter{}) {
			none = "No such dead letters."
		}
		_, err := fmt.Fprintln(a.out, none)
		return err
	}
	t := newTable("id", "source", "customer", "event", "field", "reason")
	for _, l := range letters.GetLetters() {
		t.AppendRow(table.Row{
			printable(l.GetId()), printable(l.GetSource()), printable(l.GetCustomerId()), printable(l.GetEventId()),
			printable(l.GetField()), printable(oneLine(l.GetReason())),
		})
	}
	if err := a.printTable(t); err != nil {
		return err
	}
	if letters.GetMore() {
		fmt.Fprintln(a.out, "There are more: --limit shows them.")
	}
	return nil
}

// printable quotes what a terminal might take for more than text: anybody may have written it.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return strconv.Quote(s)
	}
	return s
}

func (a *app) lettersShowCommand() *cobra.Command {
	var body bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a dead letter: the reason, where it was, and what it holds",
		Example: `  footfall deadletters show 3-1041-0
  footfall deadletters show 3-1041-0 --body > event.json`,
		Args: exactArgs("the ID of a dead letter"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			letter, err := c.GetDeadLetter(cmd.Context(), &footfallv1.GetDeadLetterRequest{Id: args[0]})
			switch {
			case err != nil:
				return letterError(args[0], err)
			case body && letter.GetEventsJson() == "":
				_, err := a.out.Write(letter.GetLetter().GetBody())
				return err
			case body:
				_, err := io.WriteString(a.out, letter.GetEventsJson())
				return err
			case a.output == "json":
				return a.printJSON(letter)
			}
			return a.printLetter(letter)
		},
	}
	cmd.Flags().BoolVar(&body, "body", false, "print nothing but its events as JSON, one a line; the bytes as they are where it cannot be read as events")
	return cmd
}

// maxDump is how much is shown of a body that nobody can read.
const maxDump = 1 << 10

func (a *app) printLetter(letter *footfallv1.GetDeadLetterResponse) error {
	l := letter.GetLetter()
	fault := messages.Fault{Field: l.GetField(), Reason: l.GetReason()}
	fmt.Fprintln(a.out, text.Bold.Sprint("Dead letter "+printable(l.GetId())))
	content := "of a type that is not known"
	if l.GetContentType() != "" {
		content = printable(strings.TrimSpace(l.GetContentType() + " " + l.GetType()))
	}
	for _, row := range [][2]string{
		{"reason", printable(oneLine(fault.Error()))},
		{"source", printable(l.GetSource())},
		{"customer", printable(l.GetCustomerId())},
		{"event", printable(l.GetEventId())},
		{"body", fmt.Sprintf("%s, %s", size(uint64(len(l.GetBody()))), content)},
	} {
		if row[1] != "" {
			fmt.Fprintf(a.out, "%-8s  %s\n", row[0], row[1])
		}
	}
	fmt.Fprintln(a.out)
	if letter.GetEventsJson() == "" {
		fmt.Fprintf(a.out, "It cannot be read: %s\n", printable(oneLine(letter.GetUnreadable())))
		b := l.GetBody()
		fmt.Fprint(a.out, hex.Dump(b[:min(len(b), maxDump)]))
		if more := len(b) - maxDump; more > 0 {
			fmt.Fprintf(a.out, "and %s more: --body prints them all\n", things(more, "byte"))
		}
		return nil
	}
	for line := range strings.Lines(letter.GetEventsJson()) {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, []byte(strings.TrimSuffix(line, "\n")), "", "  "); err != nil {
			return err
		}
		fmt.Fprintln(a.out, pretty.String())
	}
	return nil
}

// letterError says more of an error that is about one letter.
func letterError(id string, err error) error {
	switch s := status.Convert(err); s.Code() {
	case codes.NotFound:
		return fmt.Errorf("there is no dead letter %s: 'footfall deadletters list' lists those that there are", printable(id))
	case codes.InvalidArgument:
		return fmt.Errorf("%s stays, for it is still at fault: %s", printable(id), s.Message())
	default:
		return err
	}
}

func (a *app) lettersFixCommand() *cobra.Command {
	var file string
	var sets, unsets []string
	cmd := &cobra.Command{
		Use:   "fix ID --set FIELD=VALUE | --file FILE|-",
		Short: "Publish a corrected event in place of a dead letter",
		Long: `Publish a corrected event in place of a dead letter, which is then removed.

FIELD is written as in the reason of the letter: purchase.lines[0].amount. A field or a line that
is not there is made. VALUE is text or a number, or JSON where it is an object or an array. Where
more is wrong, or the letter is a whole message, write its events into a file, correct them there
(one event, an array, or one a line), and give the file.`,
		Example: `  footfall deadletters fix 3-1041-0 --set purchase.lines[0].amount=1.50 --unset purchase.currency
  footfall deadletters show 3-1041-0 --body > event.json && vi event.json
  footfall deadletters fix 3-1041-0 --file event.json`,
		Args: exactArgs("the ID of a dead letter"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (file == "") == (len(sets)+len(unsets) == 0) {
				return usagef("say what is right: --set FIELD=VALUE, --unset FIELD, or --file FILE alone")
			}
			edits, err := parseEdits(sets, unsets)
			if err != nil {
				return err
			}
			c, err := a.dial()
			if err != nil {
				return err
			}
			var events []*footfallv1.Event
			if file != "" {
				events, err = a.eventsOfFile(file)
			} else {
				events, err = editLetter(cmd.Context(), c, args[0], edits)
			}
			if err != nil {
				return err
			}
			answer, err := c.FixDeadLetter(cmd.Context(), &footfallv1.FixDeadLetterRequest{Id: args[0], Events: events})
			if err != nil {
				return letterError(args[0], err)
			}
			if a.output == "json" {
				return a.printJSON(answer)
			}
			_, err = fmt.Fprintf(a.out, "%s is fixed: %s published in its place\n", printable(args[0]), things(int(answer.GetAccepted()), "event"))
			return err
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "the corrected events as JSON; - is standard input")
	cmd.Flags().StringArrayVar(&sets, "set", nil, "sets a field of the letter's event; may be given several times")
	cmd.Flags().StringArrayVar(&unsets, "unset", nil, "takes a field out of it; may be given several times")
	return cmd
}

// eventsOfFile reads all events of a file, - for standard input. None may be faulty.
func (a *app) eventsOfFile(name string) ([]*footfallv1.Event, error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	body, err := io.ReadAll(io.LimitReader(in, maxLine+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case len(body) > maxLine:
		return nil, fmt.Errorf("%s: is larger than %s: publish so many events with 'footfall publish', and drop the letter", name, size(maxLine))
	}
	parts, err := messages.SplitJSONEvents(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("%s: holds no event", name)
	}
	events := make([]*footfallv1.Event, len(parts))
	for i, raw := range parts {
		ev, fault := messages.DecodeJSONEvent(raw)
		if fault != nil && len(parts) > 1 {
			return nil, fmt.Errorf("%s: event %d: %w", name, i+1, fault)
		}
		if fault != nil {
			return nil, fmt.Errorf("%s: %w", name, fault)
		}
		events[i] = ev
	}
	return events, nil
}

// editLetter returns the event of a letter with corrections.
func editLetter(ctx context.Context, c *client, id string, edits []edit) ([]*footfallv1.Event, error) {
	letter, err := c.GetDeadLetter(ctx, &footfallv1.GetDeadLetterRequest{Id: id})
	if err != nil {
		return nil, letterError(id, err)
	}
	lines := strings.Split(strings.TrimSpace(letter.GetEventsJson()), "\n")
	switch {
	case letter.GetEventsJson() == "":
		return nil, fmt.Errorf("%s has no event to correct (%s): give a whole one with --file", printable(id), letter.GetUnreadable())
	case len(lines) > 1:
		return nil, fmt.Errorf("%s holds %d events: write them into a file with 'footfall deadletters show %s --body', and give it with --file once they are right",
			printable(id), len(lines), printable(id))
	}
	raw, err := applyEdits([]byte(lines[0]), edits)
	if err != nil {
		return nil, err
	}
	ev, fault := messages.DecodeJSONEvent(raw)
	if fault != nil {
		return nil, letterError(id, status.Error(codes.InvalidArgument, fault.Error()))
	}
	return []*footfallv1.Event{ev}, nil
}

// changeTimeout ends a call that may go through all letters.
const changeTimeout = time.Hour

// chosen are the letters of a command that takes IDs, or --all with filters.
type chosen struct {
	all    bool
	filter letterFilter
}

func (f *chosen) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.all, "all", false, "all dead letters")
	f.filter.flags(cmd, "with --all: only those ")
}

func (f *chosen) check(ids []string) error {
	switch {
	case f.all && len(ids) > 0:
		return usagef("--all goes without IDs")
	case !f.all && f.filter != letterFilter{}:
		return usagef("--reason, --customer and --source choose among --all")
	case !f.all && len(ids) == 0:
		return usagef("the ID of a dead letter is missing, or --all")
	}
	return nil
}

func (a *app) lettersReplayCommand() *cobra.Command {
	var which chosen
	cmd := &cobra.Command{
		Use:   "replay ID… | --all",
		Short: "Publish dead letters again, as they are",
		Long: `Publish dead letters again, as they are: for those whose reason is gone, such as a time that was
too far ahead, or the log of another shard. A letter that is still at fault stays, with the field
and the reason; then the exit code is 1.`,
		Example: `  footfall deadletters replay 3-1041-0 3-1042-0
  footfall deadletters replay --all --reason "past the end of the last day"`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if err := which.check(ids); err != nil {
				return err
			}
			c, err := a.dial()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), changeTimeout)
			defer cancel()
			answer, err := c.ReplayDeadLetters(ctx, &footfallv1.ReplayDeadLettersRequest{
				Ids: ids, All: which.all, Reason: which.filter.reason, CustomerId: which.filter.customer, Source: which.filter.source,
			})
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = a.printJSON(answer)
			} else {
				a.printRefusals(answer)
				_, err = fmt.Fprintf(a.out, "%s replayed, %s refused\n", count(answer.GetReplayed()), count(answer.GetRefused()))
			}
			if err == nil && answer.GetRefused() > 0 {
				return errReported
			}
			return err
		},
	}
	which.flags(cmd)
	return cmd
}

func (a *app) printRefusals(answer *footfallv1.ReplayDeadLettersResponse) {
	for _, r := range answer.GetRefusals() {
		fault := messages.Fault{Field: r.GetField(), Reason: r.GetReason()}
		fmt.Fprint(a.out, printable(r.GetId()))
		if r.GetEventId() != "" {
			fmt.Fprintf(a.out, " (%s)", printable(r.GetEventId()))
		}
		fmt.Fprintf(a.out, ": %s\n", printable(oneLine(fault.Error())))
	}
	if more := int(answer.GetRefused()) - len(answer.GetRefusals()); more > 0 {
		fmt.Fprintf(a.out, "and %s more\n", count(more))
	}
}

func (a *app) lettersDropCommand() *cobra.Command {
	var which chosen
	var yes bool
	cmd := &cobra.Command{
		Use:   "drop ID… | --all --yes",
		Short: "Remove dead letters for good",
		Example: `  footfall deadletters drop 3-1041-0
  footfall deadletters drop --all --source footfall.unsharded --yes`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if err := which.check(ids); err != nil {
				return err
			}
			if which.all && !yes {
				return usagef("--all loses what the letters hold for good: look at them with 'footfall deadletters list', and say --yes")
			}
			c, err := a.dial()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), changeTimeout)
			defer cancel()
			answer, err := c.DropDeadLetters(ctx, &footfallv1.DropDeadLettersRequest{
				Ids: ids, All: which.all, Reason: which.filter.reason, CustomerId: which.filter.customer, Source: which.filter.source,
			})
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = a.printJSON(answer)
			} else {
				for _, id := range answer.GetMissing() {
					fmt.Fprintf(a.out, "%s: there is no such dead letter\n", printable(id))
				}
				_, err = fmt.Fprintf(a.out, "%s dropped\n", count(answer.GetDropped()))
			}
			if err == nil && len(answer.GetMissing()) > 0 {
				return errReported
			}
			return err
		},
	}
	which.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "with --all: it is meant")
	return cmd
}
