package access

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Token is what a node knows of one: never the token itself.
//
// A plain hash is right here, and a slow one with salt would not be safer. Those are for
// passwords, which people choose, and which can be guessed at by the billion once their hashes are
// known. A token is 256 bits of the system's random source: guessing at the rate of all computers
// that there are finds none before the sun goes out, salt or not, and a hash that takes a tenth of
// a second would be a way to stop a node by calling it.
type Token struct {
	// Name is the caller's, for the log and its limits. Several tokens may have the same: the old
	// and the new one while it is changed.
	Name  string
	Roles Roles
	Sum   [sha256.Size]byte
	// Expires is when it ends to be good; zero: never.
	Expires time.Time
}

// The form of a token: it can be told from other text, by those who look for secrets that went astray.
const (
	tokenPrefix = "footfall_"
	tokenBytes  = 32
)

// Bounds of a tokens file: every call with a token is held against all of them.
const (
	maxTokens     = 1000
	maxTokensFile = 1 << 20
)

// NewToken makes a token. The secret is to be shown once, and kept by nobody but the caller.
func NewToken(name string, roles Roles, expires time.Time) (secret string, t Token, err error) {
	if err := checkName(name); err != nil {
		return "", Token{}, fmt.Errorf("name: %w", err)
	}
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:]) // it never fails
	secret = tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, Token{Name: name, Roles: roles, Sum: sha256.Sum256([]byte(secret)), Expires: expires}, nil
}

// Line is the token's in a tokens file.
func (t Token) Line() string {
	expires := ""
	if !t.Expires.IsZero() {
		expires = ", expires: " + t.Expires.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("- {name: %q, roles: [%s], sha256: %q%s}", t.Name, strings.Join(t.Roles.names(), ", "), hex.EncodeToString(t.Sum[:]), expires)
}

// DecodeTokens reads a tokens file: a YAML list, each item with name, roles, sha256 and, where it
// ends, expires. All faults are reported at once, each with its line; a value that may be a
// secret in the wrong place is not repeated.
func DecodeTokens(b []byte) ([]Token, error) {
	if len(b) > maxTokensFile {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(b), maxTokensFile)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil // nobody may call
		}
		return nil, errors.New("it is not YAML") // the parser's words may repeat what stands there
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it must hold one YAML document")
	}
	list := doc.Content[0]
	if list.Kind == yaml.ScalarNode && list.Tag == "!!null" {
		return nil, nil
	}
	if list.Kind != yaml.SequenceNode {
		return nil, errors.New("it must hold a list, each item with name, roles and sha256")
	}
	if len(list.Content) > maxTokens {
		return nil, fmt.Errorf("it holds %d tokens, at most %d", len(list.Content), maxTokens)
	}
	var (
		tokens []Token
		faults []error
		seen   = map[[sha256.Size]byte]int{}
	)
	for _, item := range list.Content {
		t, errs := decodeToken(item)
		if first, twice := seen[t.Sum]; twice && len(errs) == 0 {
			errs = append(errs, fmt.Errorf("line %d: sha256: stands in line %d already", item.Line, first))
		}
		if len(errs) > 0 {
			faults = append(faults, errs...)
			continue
		}
		seen[t.Sum] = item.Line
		tokens = append(tokens, t)
	}
	return tokens, errors.Join(faults...)
}

func decodeToken(item *yaml.Node) (t Token, faults []error) {
	fault := func(line int, format string, args ...any) {
		faults = append(faults, fmt.Errorf("line %d: %w", line, fmt.Errorf(format, args...)))
	}
	if item.Kind != yaml.MappingNode {
		fault(item.Line, "must have name, roles and sha256")
		return t, faults
	}
	fields := map[string]bool{}
	for i := 0; i+1 < len(item.Content); i += 2 {
		name, value := item.Content[i].Value, item.Content[i+1]
		if fields[name] {
			fault(value.Line, "%s stands there twice", clip(name))
			continue
		}
		fields[name] = true
		if err := decodeField(&t, name, value); err != nil {
			fault(value.Line, "%w", err)
		}
	}
	for _, name := range []string{"name", "roles", "sha256"} {
		if !fields[name] {
			fault(item.Line, "%s is missing", name)
		}
	}
	return t, faults
}

func decodeField(t *Token, name string, value *yaml.Node) error {
	if name == "roles" {
		var names []string
		if value.Kind != yaml.SequenceNode || value.Decode(&names) != nil {
			return errors.New("roles: must be a list of ingest, read and operate")
		}
		roles, err := ParseRoles(names)
		if err != nil {
			return fmt.Errorf("roles: %w", err)
		}
		t.Roles = roles
		return nil
	}
	if value.Kind != yaml.ScalarNode {
		return fmt.Errorf("%s: must be one value", clip(name))
	}
	switch name {
	case "name":
		if err := checkName(value.Value); err != nil {
			return fmt.Errorf("name: %w", err)
		}
		t.Name = value.Value
	case "sha256":
		sum, err := hex.DecodeString(value.Value)
		if err != nil || len(sum) != sha256.Size {
			return errors.New("sha256: must be the token's SHA-256 in 64 hexadecimal digits")
		}
		copy(t.Sum[:], sum)
	case "expires":
		end, err := time.Parse(time.RFC3339, value.Value)
		if end = end.UTC().Truncate(time.Second); err != nil || end.Year() < 1970 || end.Year() > 9999 {
			return errors.New(`expires: must be a time such as "2027-01-31T00:00:00Z"`)
		}
		t.Expires = end
	default:
		return fmt.Errorf("%s: no such field: they are name, roles, sha256 and expires", clip(name))
	}
	return nil
}

// checkName is for names of tokens and nodes.
func checkName(s string) error {
	if s == "" || len(s) > 63 {
		return errors.New("must have 1 to 63 characters")
	}
	for _, r := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", r) {
			return errors.New("must be of letters, digits, '-', '_' and '.'")
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 16 {
		return fmt.Sprintf("%q…", s[:16])
	}
	return fmt.Sprintf("%q", s)
}

// find returns the token that was presented. All are looked at, each in constant time: how long it
// takes tells nothing of them.
func find(tokens []Token, presented string) (*Token, bool) {
	sum := sha256.Sum256([]byte(presented))
	at := -1
	for i := range tokens {
		same := subtle.ConstantTimeCompare(tokens[i].Sum[:], sum[:])
		at = subtle.ConstantTimeSelect(same, i, at)
	}
	if at < 0 {
		return nil, false
	}
	return &tokens[at], true
}
