// Package storage opens the log and the store of a node and holds them together. Its main type is [Storage], which promises:
//
//  1. Log and store belong together: a store that was made with another log, and either that
//     was made for another fold, is refused when it is opened.
//  2. [Storage.Retain] never trims what is needed to fold a shard again: it makes a base
//     snapshot first. Where the log's server trims by itself, it makes one before that.
package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"footfall/actors"
	"footfall/behavior"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/store/pebblelog"
	"footfall/store/pebblestore"
	"footfall/store/postgresstore"
)

// Log is a log that a node can have, wherever it is.
type Log interface {
	actors.Log
	// UUID names the log: a store keeps it, to notice another log.
	UUID() string
	// CheckIdentity refuses a log that was made for another fold: *messages.IdentityError.
	CheckIdentity(want messages.Identity) error
	// Err returns why the log takes nothing now; nil while it does.
	Err() error
	Close() error
}

// Storage is a log and its store.
type Storage struct {
	Log   Log
	Store *Store

	shards int
}

// Options says what to open.
type Options struct {
	// LogDir holds a log of Pebble's. Where it is empty, Log is the log, opened; it is closed
	// with the storage.
	LogDir string
	Log    Log
	// StoreDir holds a store of Pebble's. Where it is empty, Databases are those of
	// PostgreSQL that hold it.
	StoreDir  string
	Databases []string
	Identity  messages.Identity
	// Reserve is the free space of the disk, in bytes, below which writes are refused; 0 is none.
	Reserve int64
	Logger  *slog.Logger
}

// Identity is what the fold of these settings depends on.
func Identity(shards int, location *time.Location, currency string) messages.Identity {
	return messages.Identity{
		FoldVersion: behavior.FoldVersion,
		Shards:      shards,
		Timezone:    location.String(),
		TimezoneSum: behavior.NewCalendar(location).Fingerprint(),
		Currency:    currency,
	}
}

// Open opens both, and creates what is not there.
func Open(o Options) (_ *Storage, err error) {
	s := &Storage{shards: o.Identity.Shards}
	if o.Reserve == 0 {
		o.Reserve = -1 // as both rooms say it
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	s.Log = o.Log
	if o.LogDir != "" {
		log, err := openIn("log.url", o.LogDir, func(dir string) (*pebblelog.Log, error) {
			return pebblelog.Open(dir, pebblelog.Options{Logger: o.Logger, Reserve: o.Reserve})
		})
		if err != nil {
			return nil, err
		}
		s.Log = log
	}
	logName := cmp.Or(o.LogDir, "the broker's log")
	if s.Store, err = openStore(o); err != nil {
		return nil, err
	}
	storeName := cmp.Or(o.StoreDir, "the databases")
	for _, check := range []struct {
		key, dir string
		do       func() error
	}{
		{"log.url", logName, func() error { return s.Log.CheckIdentity(o.Identity) }},
		{"store.url", storeName, func() error { return s.Store.CheckIdentity(o.Identity) }},
		{"store.url", storeName, func() error { return s.Store.CheckLog(s.Log.UUID()) }},
	} {
		err := check.do()
		if fixed := (*messages.IdentityError)(nil); errors.As(err, &fixed) && fixed.Field == "log" {
			return nil, fmt.Errorf("store.url: %s holds checkpoints of another log than %s: use the two that belong together, or an empty store: %w", storeName, logName, err)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", check.key, check.dir, err)
		}
	}
	// No shard could be taken, so say it now and once.
	return s, s.Err(context.Background())
}

// OpenStore opens the store alone, of data whose log is lost or of no interest.
func OpenStore(o Options) (*Store, error) {
	if o.Reserve == 0 {
		o.Reserve = -1
	}
	s, err := openStore(o)
	if err != nil {
		return nil, err
	}
	if err := s.CheckIdentity(o.Identity); err != nil {
		return nil, errors.Join(fmt.Errorf("store.url: %w", err), s.Close())
	}
	return s, nil
}

// openStore opens the store in its directory, or in its databases.
func openStore(o Options) (*Store, error) {
	if o.StoreDir == "" {
		store, err := postgresstore.Open(context.Background(), o.Databases, postgresstore.Options{Logger: o.Logger})
		if err != nil {
			return nil, fmt.Errorf("store.url: %w", err)
		}
		return &Store{store}, nil
	}
	store, err := openIn("store.url", o.StoreDir, func(dir string) (*pebblestore.Store, error) {
		return pebblestore.Open(dir, pebblestore.Options{Logger: o.Logger, Reserve: o.Reserve})
	})
	if err != nil {
		return nil, err
	}
	return &Store{store}, nil
}

// openIn creates a directory and opens what is in it.
func openIn[T any](key, dir string, open func(string) (T, error)) (opened T, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return opened, fmt.Errorf("%s: %w", key, err)
	}
	if err := os.MkdirAll(abs, 0o750); err != nil {
		return opened, fmt.Errorf("%s: the directory cannot be made: %w", key, err)
	}
	if opened, err = open(abs); err != nil {
		return opened, fmt.Errorf("%s: %w", key, err)
	}
	return opened, nil
}

// Close closes both. Nothing may use them any more.
func (s *Storage) Close() error {
	var errs []error
	if s.Store != nil {
		errs = append(errs, s.Store.Close())
	}
	if s.Log != nil {
		errs = append(errs, s.Log.Close())
	}
	return errors.Join(errs...)
}

// Err returns why events or checkpoints are refused now; nil while they are taken.
func (s *Storage) Err(ctx context.Context) error {
	// An append of nothing is refused like any other where the disk is nearly full.
	err := s.Log.Append(ctx, 0, nil)
	if err == nil {
		err = s.Log.Err()
	}
	return errors.Join(err, s.Store.Err())
}

// Backing is a checkpoint store that a node can have, wherever it is.
type Backing interface {
	actors.Store
	LetterStore
	// CheckIdentity and CheckLog refuse a store that was made for another fold, or with
	// another log: *messages.IdentityError.
	CheckIdentity(want messages.Identity) error
	CheckLog(uuid string) error
	// Owner returns who has a shard, and its epoch; 0 where nobody ever had it.
	Owner(ctx context.Context, shard int) (owner string, epoch uint64, err error)
	// SnapshotBase makes the present checkpoint the base of a shard, Base and ScanBase read it,
	// and NeededFrom is the first offset of the log that folding from it needs.
	SnapshotBase(ctx context.Context, shard int, epoch uint64) error
	Base(ctx context.Context, shard int) (generation uint64, meta *footfallv1.CheckpointMeta, err error)
	ScanBase(ctx context.Context, shard int, generation uint64, after string, limit int) ([]messages.CustomerRecord, error)
	NeededFrom(ctx context.Context, shard int) (uint64, error)
	// Rollouts returns what is kept about the versions of models; PutRollout replaces what a generation has:
	// *messages.GenerationError where another one is there.
	Rollouts(ctx context.Context) ([]messages.Rollout, error)
	PutRollout(ctx context.Context, model string, generation uint64, body []byte) error
	// Err returns why the store takes nothing now; nil while it does.
	Err() error
	Close() error
}

// Store is a checkpoint store whose base snapshots the shards can fold from. What reads one
// must not run beside Retain of the same shard.
type Store struct{ Backing }

var (
	_ Backing = (*pebblestore.Store)(nil)
	_ Backing = (*postgresstore.Store)(nil)

	_ Log          = (*pebblelog.Log)(nil)
	_ actors.Store = (*Store)(nil)
	_ actors.Bases = (*Store)(nil)
)

// Base implements actors.Bases.
func (s *Store) Base(ctx context.Context, shard int) (*footfallv1.CheckpointMeta, error) {
	_, meta, err := s.Backing.Base(ctx, shard)
	return meta, err
}

// ScanBase implements actors.Bases.
func (s *Store) ScanBase(ctx context.Context, shard int, after string, limit int) ([]messages.CustomerRecord, error) {
	generation, meta, err := s.Backing.Base(ctx, shard)
	if err != nil || meta == nil {
		return nil, err
	}
	return s.Backing.ScanBase(ctx, shard, generation, after, limit)
}
