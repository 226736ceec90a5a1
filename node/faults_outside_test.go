package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"footfall/messages/footfallv1"
)

// outside adds a program to those that publish that is none of ours: the recipe for Python, with
// pika. It knows only when it has ended in order that all it was given is confirmed.
func (l *load) outside() {
	t := l.t
	t.Helper()
	python := os.Getenv("FOOTFALL_PYTHON")
	if python == "" {
		t.Log(`no Python of the set-up here, so pika does not publish: run make setup, then eval "$(make -s env)"`)
		return
	}
	s := l.add(source{name: "pika", most: 10, numbered: true}, nil)
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("..", "docs", "recipes", "publisher", "python", "publish.py"), l.broker, strconv.Itoa(l.shards))
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	l.work.Go(func() {
		pace := time.NewTicker(pace)
		defer pace.Stop()
		for err := error(nil); err == nil && !isClosed(l.enough); {
			for _, e := range s.burst() {
				if _, err = fmt.Fprintln(stdin, eventJSON(e)); err != nil {
					break
				}
			}
			select {
			case <-pace.C:
			case <-l.enough:
			}
		}
		l.outsider = errors.Join(stdin.Close(), cmd.Wait())
	})
}

// httpWay is the API of a node by HTTP.
type httpWay struct {
	addr   string
	events []*footfallv1.Event
}

// httpError is an answer other than 200.
type httpError struct {
	code       int
	retryAfter string
}

func (e *httpError) Error() string { return fmt.Sprint("HTTP ", e.code) }

func (w *httpWay) take(events []*footfallv1.Event) { w.events = events }

func (w *httpWay) send(ctx context.Context) error {
	var lines strings.Builder
	for _, e := range w.events {
		lines.WriteString(eventJSON(e) + "\n")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.addr+"/v1/events", strings.NewReader(lines.String()))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &httpError{resp.StatusCode, resp.Header.Get("Retry-After")}
	}
	return nil
}

func (w *httpWay) close() {}
