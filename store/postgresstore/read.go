package postgresstore

import (
	"context"
	"fmt"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
	"google.golang.org/protobuf/proto"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// Load returns what the last checkpoint kept of the shard; nil before the first.
func (s *Store) Load(ctx context.Context, shard int, epoch uint64) (meta *footfallv1.CheckpointMeta, err error) {
	var stored pgtype.DriverBytes
	err = s.readAs(ctx, shard, epoch, `
		SELECT s.epoch, s.token, c.meta FROM footfall_shards s
		LEFT JOIN footfall_checkpoints c ON c.shard = s.shard WHERE s.shard = $1`,
		nil, []any{&stored}, func() { meta = nil }, func() (err error) {
			meta, err = decodeMeta(shard, stored, "checkpoint")
			return err
		})
	return meta, err
}

// decodeMeta reads a stored meta, nil where there is none.
func decodeMeta(shard int, stored []byte, of string) (*footfallv1.CheckpointMeta, error) {
	if stored == nil {
		return nil, nil
	}
	what := fmt.Sprintf("store shard %d %s", shard, of)
	v, err := unseal(metaKind, shard, nil, stored, func() string { return what })
	if err != nil {
		return nil, err
	}
	meta := &footfallv1.CheckpointMeta{}
	if err := proto.Unmarshal(v, meta); err != nil {
		return nil, &messages.CorruptError{What: what, Reason: err.Error()}
	}
	return meta, nil
}

// Get returns the values of customers, nil for each that the store does not have. The
// values share their memory: copy what is to be kept longer than the others.
func (s *Store) Get(ctx context.Context, shard int, epoch uint64, ids []string) ([][]byte, error) {
	out := make([][]byte, len(ids))
	places := make(map[string]int, len(ids)) // of the first that asks for each
	keys := make([][]byte, 0, len(ids))
	for i, id := range ids {
		if _, ok := places[id]; !ok {
			places[id] = i
			keys = append(keys, []byte(id))
		}
	}
	var id, stored pgtype.DriverBytes
	var buf []byte
	hits := 0
	err := s.readAs(ctx, shard, epoch, `
		SELECT s.epoch, s.token, c.id, c.value FROM footfall_shards s
		LEFT JOIN LATERAL (
			SELECT c.id, c.value FROM unnest($2::bytea[]) AS u(id)
			JOIN footfall_customers c ON c.shard = s.shard AND c.id = u.id
		) c ON true WHERE s.shard = $1`,
		[]any{keys}, []any{&id, &stored}, func() { clear(out); hits = 0 }, func() error {
			if id == nil {
				return nil
			}
			v, err := unsealCustomer(shard, id, stored)
			if err != nil {
				return err
			}
			out[places[string(id)]], buf = carve(buf, v)
			return nil
		})
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		if first := out[places[id]]; first != nil {
			out[i] = first
			hits++
		}
	}
	s.gets.Add(uint64(len(ids)))
	s.hits.Add(uint64(hits))
	return out, nil
}

func unsealCustomer(shard int, id, stored []byte) ([]byte, error) {
	return unseal(customerKind, shard, id, stored, func() string { return fmt.Sprintf("store shard %d customer %q", shard, id) })
}

// carve copies v to the end of buf. A full buffer is left to those who share it and a new
// one begun, so that what was carved before does not move.
func carve(buf, v []byte) (copied, rest []byte) {
	const chunk = 64 << 10
	if cap(buf)-len(buf) < len(v) {
		buf = make([]byte, 0, max(chunk, len(v)))
	}
	at := len(buf)
	buf = append(buf, v...)
	return buf[at:len(buf):len(buf)], buf
}

// Scan returns customers in order of ID, beginning after the one named, until their values
// exceed limit bytes or none is left. IDs and values share their memory: copy what is to be
// kept longer than the others.
func (s *Store) Scan(ctx context.Context, shard int, epoch uint64, after string, limit int) ([]messages.CustomerRecord, error) {
	return s.scan(shard, after, limit, func(p *page) error {
		return s.readAs(ctx, shard, epoch, `
			SELECT s.epoch, s.token, c.id, c.value FROM footfall_shards s
			LEFT JOIN LATERAL (
				SELECT id, value FROM footfall_customers
				WHERE shard = s.shard AND id > $2 ORDER BY id LIMIT $3
			) c ON true WHERE s.shard = $1`,
			[]any{[]byte(p.after), p.rows}, []any{&p.id, &p.stored}, p.begin, p.each)
	})
}

// page is a part of a scan: as many rows as may have the bytes that are asked for.
type page struct {
	after string
	rows  int
	// A row is read into these; begin is called before the first, each after every one.
	id, stored pgtype.DriverBytes
	begin      func()
	each       func() error
}

// scan reads page by page.
func (s *Store) scan(shard int, after string, limit int, read func(*page) error) ([]messages.CustomerRecord, error) {
	var (
		out  []messages.CustomerRecord
		buf  []byte
		size int
	)
	for {
		var (
			done  = len(out)
			bytes = size
			got   int
		)
		p := &page{after: after, rows: s.rowsOf(limit - size)}
		p.begin = func() { out, size, got = out[:done], bytes, 0 }
		p.each = func() error {
			if p.id == nil {
				return nil
			}
			got++
			if size > limit {
				return nil // too many were asked for
			}
			v, err := unsealCustomer(shard, p.id, p.stored)
			if err != nil {
				return err
			}
			r := messages.CustomerRecord{}
			var id []byte
			id, buf = carve(buf, p.id)
			r.ID = unsafe.String(unsafe.SliceData(id), len(id))
			r.Value, buf = carve(buf, v)
			if len(out) > 0 && r.ID <= out[len(out)-1].ID {
				return &messages.CorruptError{What: fmt.Sprintf("store shard %d customers", shard), Reason: fmt.Sprintf("%q comes after %q", r.ID, out[len(out)-1].ID)}
			}
			out = append(out, r)
			size += len(v)
			return nil
		}
		if err := read(p); err != nil {
			return nil, err
		}
		if got < p.rows || size > limit {
			s.learn(out, size)
			s.scanned.Add(uint64(len(out)))
			return out, nil
		}
		after = out[len(out)-1].ID
	}
}

// rowsOf guesses how many customers have so many bytes.
func (s *Store) rowsOf(bytes int) int {
	const most = 20_000
	return min(max(bytes, 0)/int(s.valueBytes.Load())+2, most)
}

// learn improves the guess by what a scan has found.
func (s *Store) learn(found []messages.CustomerRecord, size int) {
	const enough = 100
	if len(found) >= enough {
		s.valueBytes.Store(int64(max(size/len(found), 16)))
	}
}
