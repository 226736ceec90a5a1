// Rabbitmq runs a RabbitMQ broker of its own on free ports until Ctrl-C, with its management pages: `make rabbitmq`.
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
	dir := flag.String("dir", "", "keep the broker's data there from run to run (default: a temporary folder)")
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
	b, err := local.StartBroker(ctx, local.BrokerOptions{Dir: dir, Plugins: []string{"rabbitmq_management", "rabbitmq_prometheus"}})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		fmt.Fprintln(os.Stderr, "footfall: stopping RabbitMQ")
		err = errors.Join(err, b.Stop(context.WithoutCancel(ctx)))
	}()
	fmt.Fprintf(os.Stdout, `RabbitMQ %s, until Ctrl-C

AMQP        %s
management  %s  (the same user and password)
metrics     %s
log         %s

A node on it:  footfall node --log-url %s
`, b.Version(), b.URL(), b.ManagementURL(), b.PrometheusURL(), b.Log(), b.URL())
	select {
	case <-ctx.Done():
		return nil
	case <-b.Done():
		return errors.New("RabbitMQ has ended by itself; its log ends with:\n" + local.Tail(b.Log()))
	}
}
