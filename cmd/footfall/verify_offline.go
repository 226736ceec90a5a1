package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"footfall/actors"
	"footfall/messages"
	"footfall/messages/footfallv1"
	"footfall/node/storage"
)

// verifyOffline verifies the data in a folder and returns what [app.verify] reads: the
// outcome of each shard, then io.EOF. An error comes where an outcome would.
func (a *app) verifyOffline(ctx context.Context, dir string, shards []uint32) func() (*footfallv1.VerifyProgress, error) {
	data, id, err := openData(dir)
	if err == nil && len(shards) == 0 {
		for i := range id.Shards {
			shards = append(shards, uint32(i))
		}
	}
	done := 0
	return func() (_ *footfallv1.VerifyProgress, err2 error) {
		defer func() {
			if err2 != nil && data != nil {
				err2 = errors.Join(err2, data.Close())
				data = nil
			}
		}()
		if err != nil {
			return nil, err
		}
		if done == len(shards) {
			return nil, io.EOF
		}
		shard := shards[done]
		if int(shard) >= id.Shards {
			return nil, usagef("--shard %d: this data has shards 0 to %d", shard, id.Shards-1)
		}
		v, err := verifyShard(ctx, data, id, int(shard))
		if err != nil {
			return nil, fmt.Errorf("shard %d: %w", shard, err)
		}
		done++
		p := &footfallv1.VerifyProgress{
			Shard: shard, Events: v.Events, Customers: v.Customers, Offset: int64(v.Next) - 1,
			Done: uint32(done), Total: uint32(len(shards)),
		}
		for _, d := range v.Differences {
			p.Differences = append(p.Differences, fmt.Sprintf("customer %q: %s", d.CustomerID, d.What))
		}
		return p, nil
	}
}

func verifyShard(ctx context.Context, data *storage.Storage, id messages.Identity, shard int) (*actors.Verified, error) {
	_, epoch, err := data.Store.Owner(ctx, shard)
	if err != nil {
		return nil, err
	}
	if epoch == 0 { // nobody ever owned it
		return &actors.Verified{Shard: shard}, nil
	}
	meta, err := data.Store.Load(ctx, shard, epoch)
	if err != nil {
		return nil, err
	}
	loc, err := time.LoadLocation(id.Timezone)
	if err != nil {
		return nil, err
	}
	config := offline(id, loc)
	config.Clock = meta.GetClock()
	return actors.VerifyShard(ctx, config, shard, epoch, data.Log, data.Store)
}

// offline is what a shard of these data was folded with.
func offline(id messages.Identity, loc *time.Location) actors.Config {
	return actors.Config{Node: "offline", Shards: id.Shards, Location: loc, Currency: id.Currency, Now: time.Now}
}

// openData opens log and store of a node that does not run, with the identity that they were
// created with.
func openData(dir string) (*storage.Storage, messages.Identity, error) {
	o := storage.Options{
		LogDir: filepath.Join(dir, "log"), StoreDir: filepath.Join(dir, "store"),
		Identity: storage.Identity(64, time.UTC, "USD"),
	}
	// Opening would create what is not there.
	for _, sub := range []string{o.LogDir, o.StoreDir} {
		if _, err := os.Stat(sub); err != nil {
			return nil, o.Identity, fmt.Errorf("%s holds no node's data: there is no %s", dir, sub)
		}
	}
	for range 8 { // more than there are fields
		data, err := storage.Open(o)
		if err == nil {
			return data, o.Identity, nil
		}
		adopted, ok := adopt(o.Identity, err)
		if !ok {
			return nil, o.Identity, err
		}
		o.Identity = adopted
	}
	return nil, o.Identity, fmt.Errorf("%s: log and store were made for different folds", dir)
}

// adopt takes up what data say that they were created with. The version of the fold and the
// zone's own transitions cannot be chosen.
func adopt(id messages.Identity, err error) (messages.Identity, bool) {
	var fixed *messages.IdentityError
	if !errors.As(err, &fixed) {
		return id, false
	}
	switch fixed.Field {
	case "shards":
		n, err := strconv.Atoi(fixed.Have)
		if err != nil {
			return id, false
		}
		id.Shards = n
		return id, true
	case "currency":
		id.Currency = fixed.Have
		return id, true
	case "timezone":
		loc, err := time.LoadLocation(fixed.Have)
		if err != nil {
			return id, false
		}
		return storage.Identity(id.Shards, loc, id.Currency), true
	}
	return id, false
}
