package chaos

import (
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"footfall/messages/footfallv1"
)

// watchers are triggers by which the database itself writes down who acquires a shard and who
// writes a checkpoint, each in the transaction that does it, under the lock of the shard's row:
// the order of n is, for each shard, the order of commits.
const watchers = `
CREATE TABLE chaos_audit (
	n bigserial PRIMARY KEY, what text, shard int, epoch bigint, owner text, writer text, meta bytea);

CREATE FUNCTION chaos_acquired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO chaos_audit (what, shard, epoch, owner, writer)
	VALUES ('acquire', NEW.shard, NEW.epoch, NEW.owner, current_setting('application_name'));
	RETURN NULL;
END $$;
CREATE TRIGGER chaos_acquired AFTER UPDATE ON footfall_shards FOR EACH ROW
	WHEN (NEW.epoch IS DISTINCT FROM OLD.epoch) EXECUTE FUNCTION chaos_acquired();

CREATE FUNCTION chaos_saved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO chaos_audit (what, shard, epoch, owner, writer, meta)
	SELECT 'checkpoint', NEW.shard, s.epoch, s.owner, current_setting('application_name'), NEW.meta
	FROM footfall_shards s WHERE s.shard = NEW.shard;
	RETURN NULL;
END $$;
CREATE TRIGGER chaos_saved AFTER INSERT OR UPDATE ON footfall_checkpoints FOR EACH ROW EXECUTE FUNCTION chaos_saved();

INSERT INTO chaos_audit (what, shard, epoch, owner, writer) SELECT 'before', shard, epoch, owner, '' FROM footfall_shards;
`

// audit begins to write down what becomes of shards. A node has made the tables.
func (w *world) audit() {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.db)
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, conn.Close(w.t.Context())) }()
	_, err = conn.Exec(w.t.Context(), watchers, pgx.QueryExecModeSimpleProtocol)
	require.NoError(w.t, err)
}

// proveFence proves from what the database has written down that no checkpoint of a former owner was
// accepted: epochs of a shard only grow, each is of one process, every checkpoint was written by
// the process whose epoch it was, and neither its position nor what it has folded ever went back.
func (w *world) proveFence() {
	t := w.t
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.db)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	rows, err := conn.Query(t.Context(), `SELECT n, what, shard, epoch, owner, writer, meta FROM chaos_audit ORDER BY n`)
	require.NoError(t, err)
	type shard struct {
		epoch              uint64
		holder             string
		next, events, read uint64
	}
	var (
		state                  [shards]shard
		n                      int64
		id                     int
		what, owner, writer    string
		epoch                  uint64
		meta                   []byte
		acquisitions, accepted int
	)
	_, err = pgx.ForEachRow(rows, []any{&n, &what, &id, &epoch, &owner, &writer, &meta}, func() error {
		s := &state[id]
		switch what {
		case "before":
			s.epoch = epoch
		case "acquire":
			acquisitions++
			require.Equal(t, s.epoch+1, epoch, "shard %d", id)
			require.Equal(t, owner, nodeOf(writer), "shard %d, epoch %d", id, epoch)
			s.epoch, s.holder = epoch, writer
		case "checkpoint":
			accepted++
			require.Equal(t, s.epoch, epoch, "shard %d", id)
			if s.holder != "" {
				require.Equal(t, s.holder, writer, "shard %d, epoch %d: a checkpoint of another", id, epoch)
			}
			const sum = 4
			var c footfallv1.CheckpointMeta
			require.NoError(t, proto.Unmarshal(meta[sum:], &c))
			require.LessOrEqual(t, s.next, c.GetNextOffset(), "shard %d, epoch %d: the position went back", id, epoch)
			require.LessOrEqual(t, s.events, c.GetEvents(), "shard %d, epoch %d: events went away", id, epoch)
			require.LessOrEqual(t, s.read, c.GetEpochRead(), "shard %d, epoch %d", id, epoch)
			require.LessOrEqual(t, c.GetEpochRead(), epoch, "shard %d, epoch %d: a checkpoint past its own epoch", id, epoch)
			s.next, s.events, s.read = c.GetNextOffset(), c.GetEvents(), c.GetEpochRead()
		}
		return nil
	})
	require.NoError(t, err)
	require.NotZero(t, accepted)
	t.Logf("%d acquisitions, %d checkpoints, each of the process that had acquired the shard last", acquisitions, accepted)
}

// nodeOf is the node of a process: "n1" of "n1.4".
func nodeOf(writer string) string {
	name, _, _ := strings.Cut(writer, ".")
	return name
}
