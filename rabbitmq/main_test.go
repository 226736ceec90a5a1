package rabbitmq

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"footfall/deploy/local"
)

// shared is a broker for all tests that neither stop nor configure one: names of theirs begin
// with a prefix of each test's own.
var shared struct {
	sync.Once
	dir    string
	broker *local.Broker
	err    error
}

// sharedBroker returns the broker that tests share.
func sharedBroker(t testing.TB) *local.Broker {
	t.Helper()
	shared.Do(func() {
		// It outlives the test that comes first, hence its folder and context do, too.
		if shared.dir, shared.err = os.MkdirTemp("", "footfall-test-"); shared.err == nil { //nolint:usetesting // see above
			shared.broker, shared.err = local.StartBroker(context.Background(), local.BrokerOptions{Dir: filepath.Join(shared.dir, "rabbitmq")}) //nolint:usetesting // see above
		}
	})
	require.NoError(t, shared.err)
	return shared.broker
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.broker != nil {
		if err := shared.broker.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(shared.dir)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
