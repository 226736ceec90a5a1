package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/replay"
)

// maxShown bounds the rejected events that are listed one by one.
const maxShown = 1_000

func (a *app) publishCommand() *cobra.Command {
	var to brokerFlags
	cmd := &cobra.Command{
		Use:   "publish FILE|-",
		Short: "Publish events from a file or from standard input",
		Long: `Publish events: protobuf-JSON, one a line (NDJSON), as an array, or as {"events": […]}.

Events of a file that name no producer get the file's digest as one, and their row as sequence:
publishing the file again changes nothing. Nor does it, for a file in order of time, to replay it
as well. Events from standard input or a pipe are sent as they come; of those a customer's last
32 event IDs keep them from being applied twice.

With --broker they go to RabbitMQ without a node: with --shards to each event's stream, else to the
queue from which the nodes take them there. What only nodes know is wrong then, such as another
currency than theirs, is a dead letter (see 'footfall deadletters').

The good events are accepted even where others are rejected; then the exit code is 1.`,
		Example: `  footfall publish events.ndjson
  tail -f events.ndjson | footfall publish -
  FOOTFALL_BROKER_PASSWORD=… footfall publish events.ndjson --broker amqp://shop@rabbit:5672/ --shards 64`,
		Args: exactArgs("a file, or - for standard input,"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, producer := a.in, ""
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }()
				if in = f; regular(f) {
					if producer, err = fileProducer(cmd.Context(), f); err != nil {
						return err
					}
				}
			}
			if to.url != "" {
				return a.publishToBroker(cmd.Context(), &to, in, producer)
			}
			return a.publishToNode(cmd.Context(), in, producer)
		},
	}
	to.add(cmd.Flags())
	return cmd
}

// publishToNode sends events to a node, which tells how many shards there are.
func (a *app) publishToNode(ctx context.Context, in io.Reader, producer string) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	var cluster *footfallv1.Cluster
	err = replay.Retry(ctx, replay.DefaultPatience, func(ctx context.Context) (err error) {
		cluster, err = c.GetCluster(ctx, &footfallv1.GetClusterRequest{})
		return err
	})
	// Who may send events may not ask: then they go in the order in which they come, which is as good, and slower.
	if err != nil && status.Code(err) != codes.PermissionDenied {
		return err
	}
	return a.publish(ctx, c, int(cluster.GetShards()), in, producer)
}

// regular reports whether f can be read twice. A pipe cannot.
func regular(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// fileProducer names the producer of a file's events, and rewinds the file. Where they stand in
// order of time it is the one that a replay gives them, for then the numbers are the same, too.
// A replay sorts the others: they are numbered in another order, and numbers of one producer that
// mean different events would make some of them look like duplicates.
func fileProducer(ctx context.Context, f *os.File) (string, error) {
	const digits = 12
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	producer := "file-" + hex.EncodeToString(h.Sum(nil))[:digits]
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if !inOrder(ctx, f) {
		producer += "-rows"
	}
	_, err := f.Seek(0, io.SeekStart)
	return producer, err
}

// inOrder reports whether events stand in order of time, as far as they can be read.
func inOrder(ctx context.Context, in io.Reader) bool {
	var latest time.Time
	for part, err := range parts(ctx, in, func() {}) {
		if err != nil {
			break // whoever reads them to publish them says so
		}
		var ev struct{ Time string }
		if json.Unmarshal(part.raw, &ev) != nil {
			continue // no event
		}
		at, err := time.Parse(time.RFC3339Nano, ev.Time) // as events are read, not more strictly
		if err != nil {
			continue
		}
		if at.Before(latest) {
			return false
		}
		latest = at
	}
	return true
}

// sound reports whether an event is good but for what only the node knows, its currency: those a
// replay counts.
func sound(ev *footfallv1.Event) bool { return validate(ev) == nil }

func validate(ev *footfallv1.Event) *messages.Fault {
	currency := ev.GetRefund().GetCurrency()
	if p := ev.GetPurchase(); p != nil {
		currency = p.GetCurrency()
	}
	return messages.Validator{Currency: currency}.Validate(ev)
}

// published is what became of a file.
type published struct {
	Accepted uint64     `json:"accepted"`
	Rejected []rejected `json:"rejected"`
	// Omitted counts rejected events beyond those that are listed.
	Omitted int `json:"omitted,omitempty"`
}

type rejected struct {
	Line    int    `json:"line"`
	EventID string `json:"event_id"`
	Field   string `json:"field"`
	Reason  string `json:"reason"`
}

func (p *published) reject(r rejected) {
	if len(p.Rejected) == maxShown {
		p.Omitted++
		return
	}
	p.Rejected = append(p.Rejected, r)
}

func (a *app) publish(ctx context.Context, to footfallv1.IngestServiceClient, shards int, in io.Reader, producer string) error {
	result := published{Rejected: []rejected{}}
	var refused []replay.Rejection // by the node, read once the publisher is closed
	p := replay.NewPublisher(ctx, to, replay.PublisherOptions{
		Shards:   shards,
		Rejected: func(r replay.Rejection) { refused = append(refused, r) },
	})
	var lineOf []int // of what was added
	var row uint64   // among the sound events
	err := func() error {
		for part, err := range parts(ctx, in, p.Send) {
			if err != nil {
				return err
			}
			ev, fault := messages.DecodeJSONEvent(part.raw)
			if fault != nil {
				id, _ := messages.PeekJSONEvent(part.raw)
				result.reject(rejected{part.line, id, fault.Field, fault.Reason})
				continue
			}
			lineOf = append(lineOf, part.line)
			if producer != "" && sound(ev) {
				row++
				if ev.GetProducer() == "" && ev.GetSequence() == 0 {
					ev.Producer, ev.Sequence = producer, row
				}
			}
			if err := p.Add(ev); err != nil {
				return err
			}
		}
		return p.Flush()
	}()
	p.Close()
	for _, r := range refused {
		result.reject(rejected{lineOf[r.Row-1], r.EventID, r.Field, r.Reason})
	}
	result.Accepted = p.Counts().Accepted
	if err != nil && result.Accepted > 0 {
		return fmt.Errorf("%w (%s accepted; publish the rest, or all again)", err, things(int(result.Accepted), "event"))
	}
	if err != nil {
		return err
	}
	return a.printPublished(&result)
}

func (a *app) printPublished(p *published) error {
	slices.SortStableFunc(p.Rejected, func(a, b rejected) int { return cmp.Compare(a.Line, b.Line) })
	if a.output == "json" {
		if err := a.printJSON(p); err != nil {
			return err
		}
	} else {
		for _, r := range p.Rejected {
			fault := messages.Fault{Field: r.Field, Reason: r.Reason}
			fmt.Fprintf(a.out, "line %d", r.Line)
			if r.EventID != "" {
				fmt.Fprintf(a.out, " (%s)", r.EventID)
			}
			fmt.Fprintf(a.out, ": %s\n", fault.Error())
		}
		if p.Omitted > 0 {
			fmt.Fprintf(a.out, "and %s more\n", count(p.Omitted))
		}
		fmt.Fprintf(a.out, "%s accepted, %s rejected\n", count(p.Accepted), count(len(p.Rejected)+p.Omitted))
	}
	if len(p.Rejected) > 0 {
		return errReported
	}
	return nil
}

// part is the JSON of one event, and the line where it begins.
type part struct {
	raw  []byte
	line int
}

// Bounds of what is read into memory at once.
const (
	maxLine = 16 << 20
	maxBody = 256 << 20
)

// parts cuts a stream into events. Where the first line is JSON by itself the stream is taken
// line by line, so it may be of any size; else it is read whole. idle is called where the next
// line is not there yet. A line that cannot be cut is given as it is: its decoder says why.
func parts(ctx context.Context, in io.Reader, idle func()) iter.Seq2[part, error] {
	return func(yield func(part, error) bool) {
		r := bufio.NewReaderSize(in, 1<<20)
		first, n, err := firstLine(r)
		if err != nil {
			yield(part{}, err)
			return
		}
		if !json.Valid(first) {
			whole(io.MultiReader(bytes.NewReader(first), r), n, yield)
			return
		}
		for l := range lines(ctx, r, first, n, idle) {
			if l.err != nil {
				yield(part{}, l.err)
				return
			}
			raw := bytes.TrimSpace(l.text)
			if len(raw) == 0 {
				continue
			}
			events, err := messages.SplitJSONEvents(raw)
			if err != nil {
				events = [][]byte{raw}
			}
			for _, ev := range events {
				if !yield(part{ev, l.n}, nil) {
					return
				}
			}
		}
	}
}

// whole cuts a body that is one JSON value of several lines, of which the first is line.
func whole(r io.Reader, line int, yield func(part, error) bool) {
	body, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("the events are more than %s in one piece: write one event a line (NDJSON)", size(maxBody))
	}
	var events [][]byte
	if err == nil {
		events, err = messages.SplitJSONEvents(body)
		if framing := (*messages.FramingError)(nil); errors.As(err, &framing) {
			framing.Line += line - 1
		}
	}
	if err != nil {
		yield(part{}, err)
		return
	}
	rest := body
	for _, ev := range events {
		// Between two events stand only space and commas: the next occurrence is the event.
		i := bytes.Index(rest, ev)
		line += bytes.Count(rest[:i], []byte{'\n'})
		if !yield(part{ev, line}, nil) {
			return
		}
		line += bytes.Count(ev, []byte{'\n'})
		rest = rest[i+len(ev):]
	}
}

// firstLine reads up to the first line that is not blank, and counts it.
func firstLine(r *bufio.Reader) (text []byte, n int, err error) {
	for {
		n++
		text, err = readLine(r)
		if text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")); len(bytes.TrimSpace(text)) > 0 {
			return text, n, nil
		}
		if errors.Is(err, io.EOF) {
			return nil, n, errors.New("there is no event to publish")
		}
		if err != nil {
			return nil, n, err
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		piece, err := r.ReadSlice('\n')
		line = append(line, piece...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("a line is longer than %s", size(maxLine))
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

type line struct {
	text []byte
	n    int
	err  error
}

// lines yields first, which is line n, and all after it. Reading goes on beside, so that what
// is there can be sent while the next line is waited for.
func lines(ctx context.Context, r *bufio.Reader, first []byte, n int, idle func()) iter.Seq[line] {
	return func(yield func(line) bool) {
		if !yield(line{first, n, nil}) {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		next := make(chan line, 1024)
		go func() { // ends with the input, or once nobody listens and a line came
			defer close(next)
			for n := n + 1; ; n++ {
				text, err := readLine(r)
				l := line{text, n, err}
				if errors.Is(err, io.EOF) {
					l.err = nil
				}
				select {
				case next <- l:
				case <-ctx.Done():
					return
				}
				if err != nil {
					return
				}
			}
		}()
		for {
			var l line
			var ok bool
			select {
			case l, ok = <-next:
			default:
				idle()
				select {
				case l, ok = <-next:
				case <-ctx.Done():
					l, ok = line{err: context.Cause(ctx)}, true
				}
			}
			if !ok || !yield(l) {
				return
			}
		}
	}
}
