package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTimeout bounds the question of 'footfall health'.
const healthTimeout = 5 * time.Second

func (a *app) healthCommand() *cobra.Command {
	var (
		ready   bool
		address string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a node whether it lives, or is ready",
		Long: `Ask a node's /healthz, or /readyz with --ready, and end with 0 where it says yes, else with 1.
It is for health checks of containers, whose images have no other program that could ask: it
speaks TLS where the node does, and does not look whose certificate it is shown.`,
		Example: `  footfall health
  footfall health --ready --http 127.0.0.1:8080`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usagef("--timeout %s: it is above 0", timeout)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			page := "/healthz"
			if ready {
				page = "/readyz"
			}
			status, body, err := askHealth(ctx, address, page)
			if err != nil {
				return fmt.Errorf("%s%s: %w", address, page, err)
			}
			if status != http.StatusOK {
				return fmt.Errorf("%s%s says %d: %s", address, page, status, oneLine(body))
			}
			if a.output == "json" {
				return a.printJSON(map[string]bool{"ok": true})
			}
			_, err = fmt.Fprintln(a.out, "ok")
			return err
		},
	}
	at := "127.0.0.1:8080"
	if v := a.getenv("FOOTFALL_HTTP_LISTEN"); v != "" {
		at = reachable(v)
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "ask whether it is ready, not just whether it lives")
	cmd.Flags().StringVar(&address, "http", at, "HTTP address of the node (FOOTFALL_HTTP_LISTEN)")
	cmd.Flags().DurationVar(&timeout, "timeout", healthTimeout, "how long it may take")
	return cmd
}

// reachable turns an address to listen at into one to call: where no host is named, this one.
func reachable(listen string) string {
	for _, all := range []string{"0.0.0.0:", "[::]:", ":"} {
		if port, ok := strings.CutPrefix(listen, all); ok {
			return "127.0.0.1:" + port
		}
	}
	return listen
}

// askHealth asks for a page over TLS, or without where the node speaks none. Whose certificate it
// is does not matter: nothing is sent, and the answer is believed only as far as it is one.
func askHealth(ctx context.Context, address, page string) (status int, body string, err error) {
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	status, body, err = get(ctx, client, "https://"+address+page)
	if plain := (tls.RecordHeaderError{}); errors.As(err, &plain) || errors.Is(err, http.ErrSchemeMismatch) {
		status, body, err = get(ctx, client, "http://"+address+page)
	}
	return status, body, err
}

func get(ctx context.Context, client *http.Client, url string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	return res.StatusCode, string(text), err
}
