package access

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const goodSum = "e48916e391d85415bc9010fb8eaeefaf8498644a539bcd5e7ab1081cc256f9cc"

func TestDecodeTokens(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		tokens     int
		fault      string
	}{
		{"empty", "", 0, ""},
		{"comments", "# none yet\n", 0, ""},
		{"one", "- {name: shop, roles: [ingest, read], sha256: " + goodSum + "}", 1, ""},
		{"over several lines", "- name: shop\n  roles:\n    - operate\n  sha256: \"" + goodSum + "\"\n  expires: 2027-01-31T00:00:00+01:00\n", 1, ""},
		{"not a list", "tokens: []", 0, "it must hold a list"},
		{"not YAML", "- {name: [", 0, "it is not YAML"},
		{"two documents", "- {name: a, roles: [read], sha256: " + goodSum + "}\n---\n[]", 0, "one YAML document"},
		{"not an item", "- shop", 0, "line 1: must have name, roles and sha256"},
		{"missing", "- {name: shop}", 0, "line 1: roles is missing\nline 1: sha256 is missing"},
		{"bad name", "- {name: \"a b\", roles: [read], sha256: " + goodSum + "}", 0, "line 1: name: must be of letters"},
		{"no role", "- {name: shop, roles: [], sha256: " + goodSum + "}", 0, "roles: must name at least one"},
		{"unknown role", "- {name: shop, roles: [admin], sha256: " + goodSum + "}", 0, `roles: must be of ingest, read and operate, not "admin"`},
		{"role of nodes", "- {name: shop, roles: [node], sha256: " + goodSum + "}", 0, `not "node"`},
		{"open", "- {name: shop, roles: [open], sha256: " + goodSum + "}", 0, `not "open"`},
		{"role twice", "- {name: shop, roles: [read, read], sha256: " + goodSum + "}", 0, "names read twice"},
		{"role not a list", "- {name: shop, roles: read, sha256: " + goodSum + "}", 0, "must be a list"},
		{"the token itself", "- {name: shop, roles: [read], sha256: footfall_s3cr3t}", 0, "sha256: must be the token's SHA-256"},
		{"bad time", "- {name: shop, roles: [read], sha256: " + goodSum + ", expires: tomorrow}", 0, "expires: must be a time"},
		{"a time of no year", "- {name: shop, roles: [read], sha256: " + goodSum + ", expires: 9999-12-31T23:59:59-01:00}", 0, "expires: must be a time"},
		{"unknown field", "- {name: shop, roles: [read], sha256: " + goodSum + ", rights: all}", 0, `"rights": no such field`},
		{"field twice", "- {name: shop, name: b, roles: [read], sha256: " + goodSum + "}", 0, `"name" stands there twice`},
		{"same token twice", "- {name: a, roles: [read], sha256: " + goodSum + "}\n- {name: b, roles: [read], sha256: " + goodSum + "}", 1, "line 2: sha256: stands in line 1 already"},
		{"too many", strings.Repeat("- x\n", maxTokens+1), 0, "1001 tokens, at most 1000"},
		{"too long", strings.Repeat("#", maxTokensFile+1), 0, "bytes, at most"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tokens, err := DecodeTokens([]byte(tt.file))
			if tt.fault != "" {
				require.ErrorContains(t, err, tt.fault)
				require.NotContains(t, err.Error(), "s3cr3t")
				return
			}
			require.NoError(t, err)
			require.Len(t, tokens, tt.tokens)
		})
	}
}

// What a token is written as is read as it was, and its secret finds it among others.
func TestTokensComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var (
			file    strings.Builder
			want    []Token
			secrets []string
		)
		for range rapid.IntRange(1, 5).Draw(t, "tokens") {
			var end time.Time
			if s := rapid.Int64Range(0, 1<<33).Draw(t, "expires"); s > 0 {
				end = time.Unix(s, 0).UTC()
			}
			roles := Roles(rapid.IntRange(1, 7).Draw(t, "roles")) << Ingest
			secret, token, err := NewToken(rapid.StringMatching(`[a-zA-Z0-9._-]{1,63}`).Draw(t, "name"), roles, end)
			require.NoError(t, err)
			require.NotContains(t, token.Line(), secret)
			file.WriteString(token.Line() + "\n")
			want, secrets = append(want, token), append(secrets, secret)
		}
		have, err := DecodeTokens([]byte(file.String()))
		require.NoError(t, err)
		require.Equal(t, want, have)
		for i, secret := range secrets {
			found, ok := find(have, secret)
			require.True(t, ok)
			require.Equal(t, want[i], *found)
			_, ok = find(have, secret+"x")
			require.False(t, ok)
		}
	})
}

func FuzzDecodeTokens(f *testing.F) {
	f.Add([]byte("- {name: shop, roles: [ingest, read], sha256: " + goodSum + ", expires: 2027-01-31T00:00:00Z}"))
	f.Add([]byte("- &a {name: *a}"))
	f.Add([]byte("- {<<: {name: x}, roles: [read], sha256: " + goodSum + "}"))
	f.Add([]byte("[]\n---\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tokens, err := DecodeTokens(b)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, token := range tokens {
			require.NoError(t, checkName(token.Name))
			require.NotZero(t, token.Roles)
			require.Zero(t, token.Roles&RolesOf(Open, Node))
			again.WriteString(token.Line() + "\n")
		}
		have, err := DecodeTokens([]byte(again.String()))
		require.NoError(t, err)
		require.Equal(t, tokens, have)
	})
}

func TestAddToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	_, a, err := NewToken("a", RolesOf(Read), time.Time{})
	require.NoError(t, err)
	require.NoError(t, AddToken(path, a))
	// Without the last line break, and with rights of its own.
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append([]byte("# ours\n"), text[:len(text)-1]...), 0o600))
	require.NoError(t, os.Chmod(path, 0o640))
	_, b, err := NewToken("b", RolesOf(Ingest, Operate), time.Time{})
	require.NoError(t, err)
	require.NoError(t, AddToken(path, b))
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), "# ours\n")
	tokens, err := DecodeTokens(text)
	require.NoError(t, err)
	require.Equal(t, []Token{a, b}, tokens)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())

	// What cannot be read, or could not be afterwards, stays as it is.
	for _, file := range []string{"- {name: a}", "[]"} {
		require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
		require.Error(t, AddToken(path, a))
		text, err = os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, file, string(text))
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
