package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/node/access"
)

// A token goes out with TLS only, or to this machine.
func TestTokensStayHome(t *testing.T) {
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"--node", "192.0.2.1:8081"}, "anybody on the way to 192.0.2.1:8081 could read it: use https://192.0.2.1:8081"},
		{[]string{"--node", "http://shop.example:8081"}, "anybody on the way to shop.example:8081 could read it"},
		{[]string{"--node", "http://127.0.0.1:1", "--ca", "ca.pem"}, "it is https:// with --ca"},
		{[]string{"--node", "https://127.0.0.1:1", "--ca", "none.pem"}, "--ca: open none.pem: no such file"},
		{[]string{"--node", "127.0.0.1:1", "--token", "@none"}, "--token: open none: no such file"},
	} {
		t.Chdir(t.TempDir())
		r := footfall(t, "", append([]string{"cluster", "--token", "footfall_s3cr3t"}, tt.args...)...)
		require.Equal(t, exitUsage, r.code, r.err)
		require.Contains(t, r.err, tt.says)
		require.NotContains(t, r.err+r.out, "s3cr3t")
	}
	// In the environment as well, which --help does not show.
	var out, errs bytes.Buffer
	env := map[string]string{"FOOTFALL_TOKEN": "footfall_s3cr3t", "FOOTFALL_NODE": "192.0.2.1:1"}
	a := newApp(strings.NewReader(""), &out, &errs, func(name string) string { return env[name] })
	require.Equal(t, exitUsage, run(t.Context(), a, []string{"cluster"}))
	require.Contains(t, errs.String(), "anybody on the way")
	a = newApp(strings.NewReader(""), &out, &errs, func(name string) string { return env[name] })
	require.Equal(t, exitOK, run(t.Context(), a, []string{"cluster", "--help"}))
	require.NotContains(t, out.String()+errs.String(), "s3cr3t")
}

// A token for ingest is enough to publish.
func TestPublishAsksNothing(t *testing.T) {
	event := `{"event_id":"e","customer_id":"900","time":"2017-01-01T12:00:00Z","page_view":{}}`
	r := footfall(t, event+"\n"+event, "publish", "-", "--node", serve(t, &fake{mute: true}))
	require.Equal(t, result{exitOK, "2 accepted, 0 rejected\n", ""}, r)
}

func TestTokenCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	r := footfall(t, "", "token", "shop", "--roles", "ingest,read", "--expires", "24h", "--file", "tokens.yaml")
	require.Equal(t, exitOK, r.code, r.err)
	secret, rest, _ := strings.Cut(r.out, "\n")
	require.True(t, strings.HasPrefix(secret, "footfall_"))
	require.NotContains(t, rest, secret)
	text, err := os.ReadFile("tokens.yaml")
	require.NoError(t, err)
	require.NotContains(t, string(text), secret)
	r = footfall(t, "", "token", "ops", "--roles", "operate", "-o", "json")
	require.Equal(t, exitOK, r.code, r.err)
	var made struct {
		Name, Token, SHA256 string
		Roles               []string
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &made))
	require.Equal(t, []string{"operate"}, made.Roles)
	tokens, err := access.DecodeTokens(text)
	require.NoError(t, err)
	require.Len(t, tokens, 1)
	require.Equal(t, now.AddDate(0, 0, 1), tokens[0].Expires)
	for _, args := range [][]string{{"shop"}, {"shop", "--roles", "all"}, {"a b", "--roles", "read"}, {"--roles", "read"}, {"shop", "--roles", "read", "--expires", "-1h"}} {
		require.Equal(t, exitUsage, footfall(t, "", append([]string{"token"}, args...)...).code, args)
	}
	require.NoError(t, os.WriteFile("bad.yaml", []byte("- x"), 0o600))
	r = footfall(t, "", "token", "shop", "--roles", "read", "--file", "bad.yaml")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "bad.yaml: line 1: must have name, roles and sha256")
	require.Empty(t, r.out)
}

func TestCertsCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	for i := range 2 {
		r := footfall(t, "", "certs", "n1", "n2", "--host", "n1.shop.example", "-o", "json")
		require.Equal(t, exitOK, r.code, r.err)
		var made struct {
			Made  bool `json:"ca_made"`
			Nodes []struct{ Node, Cert, Key string }
		}
		require.NoError(t, json.Unmarshal([]byte(r.out), &made))
		require.Equal(t, i == 0, made.Made)
		require.Len(t, made.Nodes, 2)
		require.Equal(t, filepath.Join("certs", "n2-key.pem"), made.Nodes[1].Key)
	}
	require.Equal(t, exitUsage, footfall(t, "", "certs").code)
	require.Equal(t, exitUsage, footfall(t, "", "certs", "n1", "--days", "0").code)
	require.Equal(t, exitFailed, footfall(t, "", "certs", "a/b").code)
	for _, args := range [][]string{{}, {"--use", "--prune"}} {
		require.Equal(t, exitUsage, footfall(t, "", append([]string{"gossipkey"}, args...)...).code)
	}
	r := footfall(t, "", "gossipkey", "keys", "--use")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "keys is not there: without --use and --prune it is made")
	for _, step := range []struct{ flag, says string }{{"", "1 in all"}, {"", "2 in all"}, {"--use", "2 in all"}, {"--prune", "1 in all"}} {
		args := []string{"gossipkey", "keys"}
		if step.flag != "" {
			args = append(args, step.flag)
		}
		r := footfall(t, "", args...)
		require.Equal(t, exitOK, r.code, r.err)
		require.Contains(t, r.out, step.says)
	}
}
