package pebbledb

import (
	"encoding/json"
	"errors"
	"strconv"

	"github.com/cockroachdb/pebble/v2"

	"footfall/messages"
)

// Keys of what a database knows of itself. They sort before all that begins with a shard.
var (
	identityKey = []byte("\x00identity")
	uuidKey     = []byte("\x00uuid")
)

// CheckIdentity stores want in a new database, and compares it in an old one: the first
// field that differs is *messages.IdentityError.
func (db *DB) CheckIdentity(want messages.Identity) error {
	leave, err := db.Enter()
	if err != nil {
		return err
	}
	defer leave()
	b, err := db.GetCopy(identityKey)
	if err != nil {
		return err
	}
	if b == nil {
		v, err := json.Marshal(want)
		if err != nil {
			return err
		}
		return db.SetSync(identityKey, v)
	}
	var have messages.Identity
	if err := json.Unmarshal(b, &have); err != nil {
		return db.Corrupt("identity of the "+db.what, err.Error())
	}
	return CompareIdentity(have, want)
}

// CompareIdentity returns the first field that differs as *messages.IdentityError.
func CompareIdentity(have, want messages.Identity) error {
	for _, f := range []struct{ field, have, want string }{
		{"fold version", strconv.Itoa(have.FoldVersion), strconv.Itoa(want.FoldVersion)},
		{"shards", strconv.Itoa(have.Shards), strconv.Itoa(want.Shards)},
		{"timezone", have.Timezone, want.Timezone},
		{"time zone data", have.TimezoneSum, want.TimezoneSum},
		{"currency", have.Currency, want.Currency},
	} {
		if f.have != f.want {
			return &messages.IdentityError{Field: f.field, Have: f.have, Want: f.want}
		}
	}
	return nil
}

// UUID returns the random name that the database got when it was created.
func (db *DB) UUID() (string, error) {
	leave, err := db.Enter()
	if err != nil {
		return "", err
	}
	defer leave()
	b, err := db.GetCopy(uuidKey)
	if err != nil {
		return "", err
	}
	if b != nil {
		return string(b), nil
	}
	id := NewUUID()
	return id, db.SetSync(uuidKey, []byte(id))
}

// GetCopy returns a copy of a value, nil where there is none. The caller is inside Enter.
func (db *DB) GetCopy(key []byte) ([]byte, error) {
	v, closer, err := db.Pebble.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, db.ReadError(strconv.Quote(string(key)), err)
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, closer.Close()
}

// SetSync writes one value durably. The caller is inside Enter.
func (db *DB) SetSync(key, value []byte) error {
	if err := db.Admit(len(key) + len(value)); err != nil {
		return err
	}
	b := db.Pebble.NewBatch()
	if err := b.Set(key, value, nil); err != nil {
		return errors.Join(err, b.Close())
	}
	return db.Commit(b)
}
