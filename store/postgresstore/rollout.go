package postgresstore

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"

	"footfall/messages"
)

// Rollouts returns what is kept about models, in order of name.
func (s *Store) Rollouts(ctx context.Context) (out []messages.Rollout, err error) {
	db := s.databases[0]
	err = db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		rows, err := conn.Query(ctx, `SELECT model, generation, body FROM footfall_rollouts ORDER BY model COLLATE "C"`)
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r messages.Rollout, err error) {
			err = row.Scan(&r.Model, &r.Generation, &r.Body)
			return r, err
		})
		return err
	})
	return out, err
}

// PutRollout replaces what is kept about a model under a generation, 0 where nothing is, by what is kept under the next one. It
// fails with *messages.GenerationError where another generation is there.
func (s *Store) PutRollout(ctx context.Context, model string, generation uint64, body []byte) error {
	db := s.databases[0]
	id := rand.Int64()
	if body == nil {
		body = []byte{} // not NULL
	}
	return db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		sql := `UPDATE footfall_rollouts SET generation = $2 + 1, write_id = $3, body = $4 WHERE model = $1 AND generation = $2`
		if generation == 0 {
			sql = `INSERT INTO footfall_rollouts (model, generation, write_id, body) VALUES ($1, $2 + 1, $3, $4) ON CONFLICT (model) DO NOTHING`
		}
		done, err := conn.Exec(ctx, sql, model, int64(generation), id, body)
		if err != nil || done.RowsAffected() > 0 {
			return err
		}
		var have uint64
		var wrote int64
		err = conn.QueryRow(ctx, `SELECT generation, write_id FROM footfall_rollouts WHERE model = $1`, model).Scan(&have, &wrote)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
		case err != nil:
			return err
		case wrote == id:
			return nil // an earlier try, whose answer got lost
		}
		return &messages.GenerationError{What: "roll-out of " + model, Want: generation, Have: have}
	})
}
