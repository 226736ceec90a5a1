package postgresstore

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"footfall/messages"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one step of the tables. Its statements can be run again: not every database has them in
// a transaction.
type migration struct {
	version int
	sql     string
}

// migrations returns all steps in order.
func migrations() []migration {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	var out []migration
	for _, f := range files {
		number, _, _ := strings.Cut(path.Base(f), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			panic(f + " has no version") // files are compiled in
		}
		sql, err := migrationFiles.ReadFile(f)
		if err != nil {
			panic(err)
		}
		out = append(out, migration{version, string(sql)})
	}
	slices.SortFunc(out, func(a, b migration) int { return cmp.Compare(a.version, b.version) })
	return out
}

// migrate brings the tables up to date, one step a transaction, each under the lock of the row that has the version. It refuses
// tables that are newer than the steps, unless they say that this program can work with them.
func (db *database) migrate(ctx context.Context, steps []migration) error {
	newest := steps[len(steps)-1].version
	for {
		var have int
		err := db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) (err error) {
			have, err = db.step(ctx, conn, steps)
			return err
		})
		if err != nil {
			return err
		}
		if have > newest {
			from, err := db.usableFrom(ctx)
			if err != nil {
				return err
			}
			if from > 0 && from <= newest {
				db.store.options.Logger.Info("the tables of the store are a newer program's, which this one can work with",
					"database", db.name, "version", have, "known", newest)
				return nil
			}
			return &messages.UnavailableError{
				What:   "store",
				Reason: fmt.Sprintf("database %s: its tables have version %d, and this program knows versions up to %d: run the program that made them, or a newer one", db.name, have, newest),
			}
		}
		if have == newest {
			return nil
		}
	}
}

// usableKey names the row of footfall_identity that tells from which version of the tables on programs can work with them. A step
// that older programs can live with (a table, a column with a default) leaves it, or sets it to the first that can; without the row,
// none can. So a rolling upgrade may start with the node that takes the step.
const usableKey = "tables usable from version"

// usableFrom returns the oldest version of programs that can work with the tables; 0 where they do not say.
func (db *database) usableFrom(ctx context.Context) (version int, err error) {
	err = db.retry(ctx, db.pool, func(ctx context.Context, conn *pgx.Conn, _ int) error {
		var text string
		err := conn.QueryRow(ctx, `SELECT value FROM footfall_identity WHERE name = $1`, usableKey).Scan(&text)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err == nil {
			version, err = strconv.Atoi(text)
		}
		return err
	})
	return version, err
}

// step takes the first of the steps that has not been taken, and returns the version after it.
func (db *database) step(ctx context.Context, conn *pgx.Conn, steps []migration) (version int, err error) {
	const look = `SELECT version FROM footfall_schema WHERE one = 1`
	err = conn.QueryRow(ctx, look).Scan(&version)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42P01" || errors.Is(err, pgx.ErrNoRows) {
		err = db.begin(ctx, conn)
	}
	if err != nil || version >= steps[len(steps)-1].version {
		return version, err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, look+` FOR UPDATE`).Scan(&version); err != nil {
			return err
		}
		for _, m := range steps {
			if m.version <= version {
				continue
			}
			if _, err := tx.Exec(ctx, m.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				return fmt.Errorf("step %d of the tables: %w", m.version, err)
			}
			if _, err := tx.Exec(ctx, `UPDATE footfall_schema SET version = $1 WHERE one = 1`, m.version); err != nil {
				return err
			}
			version = m.version
			db.store.options.Logger.Info("the tables of the store have a new version", "database", db.name, "version", version)
			return nil
		}
		return nil
	})
	return version, err
}

// begin makes the row that has the version.
func (db *database) begin(ctx context.Context, conn *pgx.Conn) error {
	const create = `CREATE TABLE IF NOT EXISTS footfall_schema (one int PRIMARY KEY, version int NOT NULL)`
	if _, err := conn.Exec(ctx, create); err != nil {
		// Of two that create it at once, PostgreSQL answers one that a name is taken: then it is there.
		pg, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pg.Code != "23505" && pg.Code != "42P07" && pg.Code != "42710" {
			return err
		}
	}
	_, err := conn.Exec(ctx, `INSERT INTO footfall_schema (one, version) VALUES (1, 0) ON CONFLICT (one) DO NOTHING`)
	return err
}
