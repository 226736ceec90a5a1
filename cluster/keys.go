package cluster

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/memberlist"
)

// Keys encrypt the gossip (AES-GCM). The file has one key a line, base64 of 16, 24 or 32
// bytes; empty lines and those that begin with # are passed over. The first key encrypts, all
// of them decrypt. To change the key without losing a member, on every node:
//
//  1. add the new key at the end;
//  2. once every node has it, move it to the front;
//  3. once every node has done so, remove the old one.
//
// The file is read again when it changes.

// maxKeys bounds the keys: every packet that cannot be read is tried with all of them.
const maxKeys = 16

// readKeys returns the keys of a file, in its order. Errors name the line, never the key.
func readKeys(path string) ([][]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var keys [][]byte
	var faults []error
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(text)
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("line %d is not base64", n))
		case memberlist.ValidateKey(key) != nil:
			faults = append(faults, fmt.Errorf("line %d: a key has 16, 24 or 32 bytes, this one %d", n, len(key)))
		case !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) }):
			keys = append(keys, key)
		}
	}
	if err := lines.Err(); err != nil {
		faults = append(faults, err)
	}
	if len(faults) == 0 && len(keys) == 0 {
		faults = append(faults, errors.New("there is no key in it"))
	}
	if len(keys) > maxKeys {
		faults = append(faults, fmt.Errorf("%d keys are too many, at most %d", len(keys), maxKeys))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("gossip keys %s: %w", path, errors.Join(faults...))
	}
	return keys, nil
}

// keyNames are the keys of the ring by name, and what each does: whoever changes the keys of a
// cluster sees how far each member is. A name is 32 bits of the key's hash, which tell nothing of
// it.
func (m *Membership) keyNames() map[string]string {
	names := map[string]string{}
	if m.ring == nil {
		return names
	}
	name := func(key []byte) string {
		sum := sha256.Sum256(key)
		return hex.EncodeToString(sum[:4])
	}
	for _, k := range m.ring.GetKeys() {
		names[name(k)] = "decrypts"
	}
	names[name(m.ring.GetPrimaryKey())] = "encrypts"
	return names
}

// useKeys makes the ring hold exactly keys, the first as the primary, without a moment in
// which a packet of an old or a new key could not be read.
func useKeys(ring *memberlist.Keyring, keys [][]byte) error {
	var errs []error
	for _, k := range keys {
		errs = append(errs, ring.AddKey(k))
	}
	errs = append(errs, ring.UseKey(keys[0]))
	for _, old := range ring.GetKeys() {
		if !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, old) }) {
			errs = append(errs, ring.RemoveKey(old))
		}
	}
	return errors.Join(errs...)
}
