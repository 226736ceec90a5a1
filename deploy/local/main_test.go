package local_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"testing"

	"go.uber.org/goleak"

	"footfall/deploy/local"
)

// orphaned, in the environment, makes this binary a program that starts a broker and waits to be killed.
const orphaned = "FOOTFALL_TEST_ORPHANED"

func TestMain(m *testing.M) {
	if dir := os.Getenv(orphaned); dir != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		b, err := local.StartBroker(ctx, local.BrokerOptions{Dir: dir})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stdout, b.Pid())
		<-ctx.Done()
		stop()
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
