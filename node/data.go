package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"footfall/node/api"
	"footfall/node/broker"
	"footfall/node/storage"
	"footfall/rabbitmq"
)

// connectWithin bounds how long a node that starts waits for its broker. Whoever starts nodes
// starts them again.
const connectWithin = 30 * time.Second

// openStorage opens the log, on a broker or in a directory, and the store.
func (n *Node) openStorage(reg prometheus.Registerer) error {
	identity := storage.Identity(n.cfg.Shards, n.cfg.Location, n.cfg.Currency)
	o := storage.Options{
		LogDir:    n.cfg.LogDir,
		StoreDir:  n.cfg.StoreDir,
		Databases: n.cfg.StoreDatabases,
		Identity:  identity,
		Reserve:   n.cfg.DiskReserve,
		Logger:    n.logger,
	}
	if n.cfg.LogBroker != "" {
		ctx, cancel := context.WithTimeout(context.Background(), connectWithin)
		defer cancel()
		retention := rabbitmq.Retention{MaxAge: n.cfg.LogAge, MaxBytes: n.cfg.LogSize}
		if retention.MaxAge == 0 {
			retention.MaxAge = -1 // for ever
		}
		var err error
		if n.broker, err = broker.Open(ctx, broker.Options{
			URL:       n.cfg.LogBroker,
			Files:     rabbitmq.TLSFiles(n.cfg.LogTLS),
			Node:      n.cfg.Name,
			Identity:  identity,
			Retention: retention,
			Logger:    n.logger,
			Registry:  reg,
		}); err != nil {
			return err
		}
		o.Log = n.broker.Log()
	}
	var err error
	if n.storage, err = storage.Open(o); err != nil {
		return err
	}
	if databases, ok := n.storage.Store.Backing.(prometheus.Collector); ok {
		return reg.Register(databases)
	}
	return nil
}

// deadLetters is where what could not be accepted is.
func (n *Node) deadLetters() api.DeadLetters {
	if n.broker != nil {
		return n.broker.Letters(n.storage.DeadLetters())
	}
	return n.storage.DeadLetters()
}
