package postgresstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"footfall/messages"
	"footfall/store/internal/pebbledb"
)

// Options says how to open a [Store]. The zero value is right for a node.
type Options struct {
	// Logger gets what is worth knowing about the databases, nil for none.
	Logger *slog.Logger
	// MaxConns bounds the connections to each database, beside two for leases: 0 is 16. The URL's pool_max_conns wins.
	MaxConns int
	// Timeout bounds each try of a call, and each statement: 0 is 15 s. The URL's statement_timeout wins for the latter.
	Timeout time.Duration
	// Patience bounds how long a call is tried again after failures that may pass: 0 is 30 s.
	Patience time.Duration
	// DeadLetters and DeadLetterBytes bound what is kept of each shard: 0 is 10,000 and
	// 16 MiB.
	DeadLetters, DeadLetterBytes uint64
}

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxConns == 0 {
		o.MaxConns = 16
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.DeadLetters == 0 {
		o.DeadLetters = 10_000
	}
	if o.DeadLetterBytes == 0 {
		o.DeadLetterBytes = 16 << 20
	}
}

// Store keeps the checkpoints of every shard. All methods may be called from any goroutine.
type Store struct {
	options   Options
	databases []*database

	// ctx ends with Close, and with it every call.
	ctx    context.Context //nolint:containedctx // it is the store's life, not a call's
	cancel context.CancelCauseFunc
	closed sync.Once

	// mu guards what this process has acquired and renewed.
	mu sync.Mutex
	// grants are the last acquisitions through this store, by shard.
	grants map[int]grant
	// incarnations are those under which members have renewed leases through this store.
	incarnations map[string]string

	// valueBytes is about the size of a customer's value, as scans have met them.
	valueBytes atomic.Int64

	calls *prometheus.HistogramVec

	checkpoints, customers, bytes, stale, gets, hits, scanned, deadDropped, replayed atomic.Uint64
}

// grant is an acquisition: see footfall_shards.token.
type grant struct {
	epoch uint64
	token int64
}

// Open connects to the databases, in the order that they were created with, and brings their
// tables up to date. It waits for databases that are not there yet, for as long as Options.Patience.
// Any number of nodes may do so at once.
func Open(ctx context.Context, urls []string, o Options) (_ *Store, err error) {
	if len(urls) == 0 {
		return nil, errors.New("the list of databases is empty")
	}
	s := newStore(o)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for i, url := range urls {
		db, err := openDatabase(s, i, url)
		if err != nil {
			return nil, err
		}
		s.databases = append(s.databases, db)
	}
	for _, db := range s.databases {
		if err := db.migrate(ctx, migrations()); err != nil {
			return nil, err
		}
	}
	return s, s.checkList(ctx)
}

// newStore returns a store without databases.
func newStore(o Options) *Store {
	o.defaults()
	s := &Store{options: o, grants: map[int]grant{}, incarnations: map[string]string{}, calls: newCallSeconds()}
	const guess = 800
	s.valueBytes.Store(guess)
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// checkList makes sure that the list of databases is the one that the store was created with.
func (s *Store) checkList(ctx context.Context) error {
	name := pebbledb.NewUUID()
	for i, db := range s.databases {
		for _, c := range []struct{ key, value string }{
			// The first one names them all.
			{"store", name},
			{"databases", strconv.Itoa(len(s.databases))},
			{"database", strconv.Itoa(i)},
		} {
			have, err := db.fix(ctx, c.key, c.value)
			if err != nil {
				return err
			}
			if i == 0 && c.key == "store" {
				name = have
				continue
			}
			if have == c.value {
				continue
			}
			e := &messages.IdentityError{Field: "list of databases", Have: have, Want: c.value}
			switch c.key {
			case "store":
				e.Have, e.Want = "store "+have, "store "+name
			case "database":
				e.Have, e.Want = "number "+have, "number "+c.value
			default:
				e.Have, e.Want = have+" databases", c.value+" databases"
			}
			return fmt.Errorf("database %d (%s): %w", i, db.name, e)
		}
	}
	return nil
}

// fix stores a value that never changes, or returns the one that is there already.
func (db *database) fix(ctx context.Context, name, value string) (have string, err error) {
	err = db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		if _, err := conn.Exec(ctx, `INSERT INTO footfall_identity (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, value); err != nil {
			return err
		}
		return conn.QueryRow(ctx, `SELECT value FROM footfall_identity WHERE name = $1`, name).Scan(&have)
	})
	return have, err
}

// CheckIdentity stores want in a new store and compares it in an old one: a field that
// differs is *messages.IdentityError.
func (s *Store) CheckIdentity(want messages.Identity) error {
	v, err := json.Marshal(want)
	if err != nil {
		return err
	}
	for _, db := range s.databases {
		stored, err := db.fix(s.ctx, "identity", string(v))
		if err != nil {
			return err
		}
		var have messages.Identity
		if err := json.Unmarshal([]byte(stored), &have); err != nil {
			return &messages.CorruptError{What: "identity of the store", Reason: err.Error()}
		}
		if err := pebbledb.CompareIdentity(have, want); err != nil {
			return err
		}
	}
	return nil
}

// CheckLog stores the random name of the log that the checkpoints come from, and compares
// it from then on: *messages.IdentityError says that the log has been replaced.
func (s *Store) CheckLog(uuid string) error {
	for _, db := range s.databases {
		have, err := db.fix(s.ctx, "log", uuid)
		if err != nil {
			return err
		}
		if have != uuid {
			return &messages.IdentityError{Field: "log", Have: have, Want: uuid}
		}
	}
	return nil
}

// Database returns the place in the list of the database that a shard is in.
func (s *Store) Database(shard int) int { return shard % len(s.databases) }

// Err returns why calls fail at the moment, as *messages.UnavailableError; nil while all
// databases answer. It passes with the next call that succeeds.
func (s *Store) Err() error {
	if s.ctx.Err() != nil {
		return errClosed
	}
	var errs []error
	for _, db := range s.databases {
		if f := db.failed.Load(); f != nil {
			errs = append(errs, f)
		}
	}
	return errors.Join(errs...)
}

var errClosed = &messages.UnavailableError{What: "store", Reason: "it is closed", Err: os.ErrClosed}

// Close ends calls under way and closes all connections. It is idempotent.
func (s *Store) Close() error {
	s.closed.Do(func() {
		s.cancel(errClosed)
		for _, db := range s.databases {
			db.close()
		}
	})
	return nil
}

// at returns the database of a shard.
func (s *Store) at(shard int) (*database, error) {
	if shard < 0 || shard >= messages.MaxShards {
		return nil, fmt.Errorf("store shard %d: shards are 0 to %d", shard, messages.MaxShards-1)
	}
	return s.databases[s.Database(shard)], nil
}

// granted returns the token of an acquisition through this store, 0 where it was not.
func (s *Store) granted(shard int, epoch uint64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.grants[shard]; g.epoch == epoch {
		return g.token
	}
	return 0
}

// Stats are the figures of a store since it was opened.
type Stats struct {
	// Checkpoints, Customers and CustomerBytes count what became durable.
	Checkpoints, Customers, CustomerBytes uint64
	// Stale counts calls under an epoch that is not the shard's.
	Stale uint64
	// Gets counts customers that were asked for, Hits those that were there, Scanned those
	// that scans returned.
	Gets, Hits, Scanned uint64
	// DeadLettersDropped counts dead letters that made room for younger ones.
	DeadLettersDropped uint64
	// Retries counts tries after the first, by database; Failures calls that were given up.
	Retries, Failures []uint64
	// Replayed counts checkpoints whose commit had taken place without an answer.
	Replayed uint64
}

// Stats returns the figures since the store was opened.
func (s *Store) Stats() Stats {
	st := Stats{
		Checkpoints:        s.checkpoints.Load(),
		Customers:          s.customers.Load(),
		CustomerBytes:      s.bytes.Load(),
		Stale:              s.stale.Load(),
		Gets:               s.gets.Load(),
		Hits:               s.hits.Load(),
		Scanned:            s.scanned.Load(),
		DeadLettersDropped: s.deadDropped.Load(),
		Replayed:           s.replayed.Load(),
	}
	for _, db := range s.databases {
		st.Retries = append(st.Retries, db.retries.Load())
		st.Failures = append(st.Failures, db.failures.Load())
	}
	return st
}

// Owner returns who has the shard, and its epoch: "" and 0 where nobody ever had. The owner's
// lease may have lapsed.
func (s *Store) Owner(ctx context.Context, shard int) (owner string, epoch uint64, err error) {
	db, err := s.at(shard)
	if err != nil {
		return "", 0, err
	}
	err = db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		err := conn.QueryRow(ctx, `SELECT owner, epoch FROM footfall_shards WHERE shard = $1`, shard).Scan(&owner, &epoch)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return owner, epoch, err
}

// Owned returns the shards that a member has under an incarnation, with their epochs, whether its
// lease lasts or not: what it may go on with after a lapse.
func (s *Store) Owned(ctx context.Context, member, incarnation string) (map[int]uint64, error) {
	owned := map[int]uint64{}
	for _, db := range s.databases {
		var here map[int]uint64
		err := db.retry(ctx, db.lease, func(ctx context.Context, conn *pgx.Conn, _ int) error {
			here = map[int]uint64{}
			rows, err := conn.Query(ctx, `SELECT shard, epoch FROM footfall_shards WHERE owner = $1 AND incarnation = $2`, member, incarnation)
			if err != nil {
				return err
			}
			var shard int
			var epoch uint64
			_, err = pgx.ForEachRow(rows, []any{&shard, &epoch}, func() error {
				here[shard] = epoch
				return nil
			})
			return err
		})
		if err != nil {
			return nil, err
		}
		maps.Copy(owned, here)
	}
	return owned, nil
}
