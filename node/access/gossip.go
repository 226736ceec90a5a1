package access

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// gossipKeyBytes are those of AES-256.
const gossipKeyBytes = 32

// AddGossipKey adds a new key to the end of a file of gossip keys, which is made where it is not
// there. It returns how many keys there are.
func AddGossipKey(path string) (keys int, err error) {
	var b [gossipKeyBytes]byte
	_, _ = rand.Read(b[:]) // it never fails
	err = changeKeys(path, true, func(lines []string) ([]string, error) {
		return append(lines, base64.StdEncoding.EncodeToString(b[:])), nil
	}, &keys)
	return keys, err
}

// UseGossipKey moves the last key of a file to its front, where it encrypts.
func UseGossipKey(path string) (keys int, err error) {
	err = changeKeys(path, false, func(lines []string) ([]string, error) {
		if len(lines) < 2 {
			return nil, errors.New("it has no other key: add one first")
		}
		return slices.Insert(lines[:len(lines)-1], 0, lines[len(lines)-1]), nil
	}, &keys)
	return keys, err
}

// PruneGossipKeys removes all keys of a file but the first.
func PruneGossipKeys(path string) (keys int, err error) {
	err = changeKeys(path, false, func(lines []string) ([]string, error) {
		if len(lines) == 0 {
			return nil, errors.New("there is no key in it")
		}
		return lines[:1], nil
	}, &keys)
	return keys, err
}

// isGossipKey tells what nodes read as a key: base64 of 16, 24 or 32 bytes.
func isGossipKey(line string) bool {
	key, err := base64.StdEncoding.DecodeString(line)
	return err == nil && (len(key) == 16 || len(key) == 24 || len(key) == gossipKeyBytes)
}

// changeKeys writes a file of keys anew. Comments stay, before the keys.
func changeKeys(path string, create bool, change func([]string) ([]string, error), count *int) error {
	text, err := os.ReadFile(path)
	if err != nil && (!create || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	var keys, comments []string
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		switch line = strings.TrimSpace(line); {
		case line == "":
		case strings.HasPrefix(line, "#"):
			comments = append(comments, line)
		case !isGossipKey(line): // it may be another file, which is to stay as it is
			return fmt.Errorf("line %d is no key: it is left as it was", n)
		default:
			keys = append(keys, line)
		}
	}
	if keys, err = change(keys); err != nil {
		return err
	}
	*count = len(keys)
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	return WriteFile(path, []byte(strings.Join(append(comments, keys...), "\n")+"\n"), mode)
}
