package main

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHealth(t *testing.T) {
	pages := http.NewServeMux()
	pages.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	pages.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"ready":false,"reasons":["the node is stopping"]}`)
	})
	for name, start := range map[string]func(*httptest.Server){"plain": (*httptest.Server).Start, "TLS": (*httptest.Server).StartTLS} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(pages)
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			start(server)
			t.Cleanup(server.Close)
			port := server.URL[strings.LastIndexByte(server.URL, ':'):]
			ask := func(args ...string) (code int, out, errs string) {
				var stdout, stderr bytes.Buffer
				env := map[string]string{"FOOTFALL_HTTP_LISTEN": "0.0.0.0" + port}
				code = run(t.Context(), newApp(strings.NewReader(""), &stdout, &stderr, func(k string) string { return env[k] }), args)
				return code, stdout.String(), stderr.String()
			}

			code, out, errs := ask("health")
			require.Equal(t, exitOK, code, errs)
			require.Equal(t, "ok\n", out)

			code, out, _ = ask("health", "--output", "json")
			require.Equal(t, exitOK, code)
			require.JSONEq(t, `{"ok":true}`, out)

			code, _, errs = ask("health", "--ready")
			require.Equal(t, exitFailed, code)
			require.Contains(t, errs, "/readyz says 503")
			require.Contains(t, errs, "the node is stopping")

			server.Close()
			code, _, errs = ask("health")
			require.Equal(t, exitFailed, code)
			require.Contains(t, errs, "connection refused")
		})
	}
}

func TestHealthRefuses(t *testing.T) {
	var errs bytes.Buffer
	code := run(t.Context(), newApp(strings.NewReader(""), io.Discard, &errs, func(string) string { return "" }), []string{"health", "--timeout", "0s"})
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs.String(), "--timeout 0s")
}

func TestReachable(t *testing.T) {
	for listen, want := range map[string]string{
		"0.0.0.0:8080": "127.0.0.1:8080", ":8080": "127.0.0.1:8080", "[::]:80": "127.0.0.1:80", "10.0.0.7:8080": "10.0.0.7:8080", "[::1]:1": "[::1]:1",
	} {
		require.Equal(t, want, reachable(listen))
	}
}
