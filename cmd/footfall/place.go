package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"footfall/messages"
	"footfall/node/broker"
	"footfall/node/config"
	"footfall/node/storage"
	"footfall/node/transfer"
	"footfall/rabbitmq"
)

// place is where data are: below a folder, or where a node's configuration says.
type place struct {
	folder, config         string
	folderFlag, configFlag string
}

func (p *place) flags(cmd *cobra.Command, folder, config, what string) {
	p.folderFlag, p.configFlag = folder, config
	cmd.Flags().StringVar(&p.folder, folder, "", "the folder of the data "+what)
	cmd.Flags().StringVar(&p.config, config, "", "the node's configuration that says where the data are "+what)
}

// check says what is wrong with how the flags were given.
func (p *place) check() error {
	if (p.folder == "") == (p.config == "") {
		return usagef("give one of --%s and --%s", p.folderFlag, p.configFlag)
	}
	return nil
}

// data are a log and a store that no node has.
type data struct {
	*storage.Storage
	id     messages.Identity
	name   string
	broker *broker.Broker   // nil where the log is not on one
	folder *transfer.Folder // nil where the data are not made in a folder
}

// Close gives back what was opened.
func (d *data) Close() error {
	err := d.Storage.Close()
	if d.broker != nil {
		err = errors.Join(err, d.broker.Close())
	}
	return err
}

// done closes what was made, whole.
func (d *data) done() error {
	if d.folder != nil {
		return d.folder.Done()
	}
	return d.Close()
}

// brokerWithin bounds the wait for a broker.
const brokerWithin = 30 * time.Second

// source opens data that are there.
func (a *app) source(ctx context.Context, p place, logless bool) (*data, error) {
	if p.folder != "" {
		s, id, err := openData(p.folder)
		if err != nil {
			return nil, err
		}
		name, err := filepath.Abs(p.folder)
		return &data{Storage: s, id: id, name: name}, err
	}
	cfg, err := a.configuration(p.config)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.LogDir, cfg.StoreDir} {
		if dir == "" {
			continue
		}
		// Opening would create what is not there.
		if _, err := os.Stat(dir); err != nil {
			return nil, err
		}
	}
	id := storage.Identity(cfg.Shards, cfg.Location, cfg.Currency)
	if logless {
		store, err := storage.OpenStore(storage.Options{StoreDir: cfg.StoreDir, Databases: cfg.StoreDatabases, Identity: id, Logger: quiet()})
		if err != nil {
			return nil, err
		}
		return &data{Storage: &storage.Storage{Store: store}, id: id, name: p.config}, nil
	}
	return a.openAs(ctx, cfg, id, p.config)
}

// target opens data that are to be made. from says of what, so that an unfinished run is gone on with.
func (a *app) target(ctx context.Context, p place, from string, id messages.Identity) (*data, error) {
	if p.folder != "" {
		f, err := transfer.OpenFolder(p.folder, from, id)
		if err != nil {
			return nil, err
		}
		return &data{Storage: f.Storage, id: id, name: p.folder, folder: f}, nil
	}
	cfg, err := a.configuration(p.config)
	if err != nil {
		return nil, err
	}
	have := storage.Identity(cfg.Shards, cfg.Location, cfg.Currency)
	if have != id {
		return nil, fmt.Errorf("%s: the data are of %d shards, timezone %s and currency %s, and it says %d, %s and %s", p.config,
			id.Shards, id.Timezone, id.Currency, have.Shards, have.Timezone, have.Currency)
	}
	return a.openAs(ctx, cfg, id, p.config)
}

// configuration reads what a node would read, with the environment of this process.
func (a *app) configuration(file string) (*config.Config, error) {
	return config.Load(config.Sources{File: file, Environ: os.Environ()})
}

// openAs opens the log and the store of a configuration as a node does.
func (a *app) openAs(ctx context.Context, cfg *config.Config, id messages.Identity, name string) (*data, error) {
	d := &data{id: id, name: name}
	o := storage.Options{LogDir: cfg.LogDir, StoreDir: cfg.StoreDir, Databases: cfg.StoreDatabases, Identity: id, Logger: quiet()}
	if cfg.LogBroker != "" {
		ctx, cancel := context.WithTimeout(ctx, brokerWithin)
		defer cancel()
		retention := rabbitmq.Retention{MaxAge: cfg.LogAge, MaxBytes: cfg.LogSize}
		if retention.MaxAge == 0 {
			retention.MaxAge = -1 // for ever
		}
		var err error
		d.broker, err = broker.Open(ctx, broker.Options{
			URL: cfg.LogBroker, Files: rabbitmq.TLSFiles(cfg.LogTLS), Node: "footfall", Identity: id, Retention: retention,
			Logger: quiet(), Registry: prometheus.NewRegistry(),
		})
		if err != nil {
			return nil, err
		}
		o.Log = d.broker.Log()
	}
	var err error
	if d.Storage, err = storage.Open(o); err != nil {
		if d.broker != nil {
			err = errors.Join(err, d.broker.Close())
		}
		return nil, err
	}
	return d, nil
}

// quiet is for rooms that would write down what errors say again.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
