package postgresstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"footfall/messages"
)

// Acquire takes the shard for owner and returns its new epoch, higher than all before. It fails with *messages.HeldError
// where another has the shard and its lease lasts.
//
// The shard is held by the incarnation under which this store renewed the owner's lease last. An owner
// without a lease holds its shards only until somebody asks for them.
func (s *Store) Acquire(ctx context.Context, shard int, owner string) (epoch uint64, err error) {
	if owner == "" {
		return 0, fmt.Errorf("store shard %d: an owner needs a name", shard)
	}
	s.mu.Lock()
	incarnation := s.incarnations[owner]
	s.mu.Unlock()
	token := rand.Int64N(1<<62) + 1
	err = s.take(ctx, shard, owner, incarnation, func(ctx context.Context, tx pgx.Tx, row *shardRow, _ int) error {
		if row == nil {
			// Where another was faster, its row is locked.
			if _, err := tx.Exec(ctx, `
				INSERT INTO footfall_shards (shard, epoch, token, owner) VALUES ($1, 0, 0, '')
				ON CONFLICT (shard) DO NOTHING`, shard); err != nil {
				return err
			}
			if row, err = lockShard(ctx, tx, shard, alone); err != nil {
				return err
			}
			if row == nil {
				return fmt.Errorf("store shard %d: its row is not there", shard)
			}
		}
		if err := free(ctx, tx, shard, owner, incarnation); err != nil {
			return err
		}
		epoch = row.epoch + 1
		_, err := tx.Exec(ctx, `
			UPDATE footfall_shards SET epoch = $2, token = $3, owner = $4, incarnation = $5 WHERE shard = $1`,
			shard, epoch, token, owner, incarnation)
		return err
	})
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grants[shard].epoch < epoch {
		s.grants[shard] = grant{epoch, token}
	}
	return epoch, nil
}

// free fails with *messages.HeldError where another than the incarnation of a member holds the shard. The lease that it finds
// lapsed cannot be renewed before the transaction ends: whoever renews it after sees that the shard is gone.
func free(ctx context.Context, tx pgx.Tx, shard int, member, incarnation string) error {
	var owner, holder string
	var epoch uint64
	err := tx.QueryRow(ctx, `SELECT owner, incarnation, epoch FROM footfall_shards WHERE shard = $1`, shard).Scan(&owner, &holder, &epoch)
	if err != nil || owner == "" || owner == member && holder == incarnation {
		return err
	}
	var left time.Duration
	err = tx.QueryRow(ctx, `
		SELECT expires - clock_timestamp() FROM footfall_leases WHERE member = $1 AND incarnation = $2 FOR SHARE`,
		owner, holder).Scan(&left)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil && left > 0 {
		return &messages.HeldError{Shard: shard, Owner: owner, Epoch: epoch, For: left}
	}
	return err
}

const release = `UPDATE footfall_shards SET owner = '', incarnation = '' WHERE shard = $1`

// Release gives the shard up: it has no owner then, and its epoch stays.
func (s *Store) Release(ctx context.Context, shard int, epoch uint64) error {
	return s.writeAs(ctx, shard, epoch, writing, func(ctx context.Context, tx pgx.Tx, _ *shardRow, _ int) error {
		_, err := tx.Exec(ctx, release, shard)
		return err
	})
}

// Renew makes the lease of a member last for another ttl, in every database, and returns for how long
// it does so in each, counted from the moment of the call: 0 where err tells why it was not renewed.
//
// Incarnation tells apart the processes of one name. *messages.LeaseHeldError says that another one has the lease, and it lasts.
// A lease that has lapsed is renewed like any other; whether shards were taken meanwhile, [Store.Owned] tells afterwards.
func (s *Store) Renew(ctx context.Context, member, incarnation string, ttl time.Duration) (lasts []time.Duration, err error) {
	if member == "" || incarnation == "" {
		return nil, errors.New("store: a lease needs the names of a member and of its incarnation")
	}
	if ttl < time.Millisecond {
		return nil, fmt.Errorf("store: a lease of %s is too short", ttl)
	}
	s.mu.Lock()
	fresh := s.incarnations[member] != incarnation
	s.incarnations[member] = incarnation
	s.mu.Unlock()

	called := time.Now()
	lasts = make([]time.Duration, len(s.databases))
	errs := make([]error, len(s.databases))
	var wg sync.WaitGroup
	for i, db := range s.databases {
		wg.Go(func() {
			var sent time.Time
			// A try that hangs must leave time for another before the lease ends.
			errs[i] = db.retryWithin(ctx, db.lease, max(ttl/3, leastTry), max(ttl, leastPatience), func(ctx context.Context, conn *pgx.Conn, _ int) error {
				sent = time.Now()
				return renew(ctx, conn, member, incarnation, ttl, fresh)
			})
			if errs[i] == nil {
				// The database's clock was read after sent.
				lasts[i] = sent.Sub(called) + ttl
			}
		})
	}
	wg.Wait()
	return lasts, errors.Join(errs...)
}

// The least time for one try of a renewal, and for all: one that comes after the lease has lapsed is of use, too.
const (
	leastTry      = 500 * time.Millisecond
	leastPatience = 5 * time.Second
)

// forgetAfter is when the lease of a member that does not come back is forgotten.
const forgetAfter = "7 days"

func renew(ctx context.Context, conn *pgx.Conn, member, incarnation string, ttl time.Duration, fresh bool) error {
	if fresh {
		if _, err := conn.Exec(ctx, `DELETE FROM footfall_leases WHERE expires < clock_timestamp() - interval '`+forgetAfter+`'`); err != nil {
			return err
		}
	}
	for {
		tag, err := conn.Exec(ctx, `
			INSERT INTO footfall_leases (member, incarnation, expires) VALUES ($1, $2, clock_timestamp() + $3::interval)
			ON CONFLICT (member) DO UPDATE SET incarnation = excluded.incarnation, expires = excluded.expires
			WHERE footfall_leases.incarnation = excluded.incarnation OR footfall_leases.expires <= clock_timestamp()`,
			member, incarnation, ttl)
		if err != nil || tag.RowsAffected() == 1 {
			return err
		}
		held := messages.LeaseHeldError{Member: member}
		err = conn.QueryRow(ctx, `SELECT incarnation, expires - clock_timestamp() FROM footfall_leases WHERE member = $1`, member).
			Scan(&held.Incarnation, &held.For)
		switch {
		case errors.Is(err, pgx.ErrNoRows): // it has just been given up
		case err != nil:
			return err
		case held.For > 0 && held.Incarnation != incarnation:
			return &held
		}
	}
}

// GiveUp ends the lease of a member at once, for when it has released its shards and leaves. It is fine where another
// incarnation has the lease, or nobody.
func (s *Store) GiveUp(ctx context.Context, member, incarnation string) error {
	var errs []error
	for _, db := range s.databases {
		errs = append(errs, db.retry(ctx, db.lease, func(ctx context.Context, conn *pgx.Conn, _ int) error {
			_, err := conn.Exec(ctx, `DELETE FROM footfall_leases WHERE member = $1 AND incarnation = $2`, member, incarnation)
			return err
		}))
	}
	return errors.Join(errs...)
}

// Lease is the lease of a member.
type Lease struct {
	Member, Incarnation string
	// Left is how long it lasts from now on, by the database's clock: below 0 where it has lapsed.
	Left time.Duration
}

// Leases returns the leases of all members, by name, as the first database has them; those that lapsed days ago
// may be missing.
func (s *Store) Leases(ctx context.Context) (leases []Lease, err error) {
	db := s.databases[0]
	err = db.retry(ctx, db.lease, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		rows, err := conn.Query(ctx, `SELECT member, incarnation, expires - clock_timestamp() FROM footfall_leases ORDER BY member`)
		if err != nil {
			return err
		}
		leases, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Lease])
		return err
	})
	return leases, err
}

// keepPlace is how long a member that is away without having given up its lease is counted upon to come back.
const keepPlace = time.Minute

// Places returns the members whose place is kept: those with a lease, and those whose lease ended less than a minute ago
// without having been given up.
func (s *Store) Places(ctx context.Context) (members []string, err error) {
	leases, err := s.Leases(ctx)
	for _, l := range leases {
		if l.Left > -keepPlace {
			members = append(members, l.Member)
		}
	}
	return members, err
}
