// Postgres runs a PostgreSQL server of its own on a free port until Ctrl-C: `make postgres`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"footfall/deploy/local"
)

func main() {
	dir := flag.String("dir", "", "keep the server's data there from run to run (default: a temporary folder)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *dir)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "footfall: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) (err error) {
	p, err := local.StartPostgres(ctx, local.PostgresOptions{Dir: dir})
	if ctx.Err() != nil { // Ctrl-C before it was there
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		fmt.Fprintln(os.Stderr, "footfall: stopping PostgreSQL")
		err = errors.Join(err, p.Stop(context.WithoutCancel(ctx)))
	}()
	fmt.Fprintf(os.Stdout, `PostgreSQL, until Ctrl-C

address  %s
log      %s

By hand:         psql '%[1]s'
A node over it:  footfall node --log-url amqp://... --store-url '%[1]s'
`, p.URL(""), p.Log())
	select {
	case <-ctx.Done():
		return nil
	case <-p.Done():
		return errors.New("PostgreSQL has ended by itself; its log ends with:\n" + local.Tail(p.Log()))
	}
}
