package node

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/deploy/local"
)

// TestFaults tries what can go wrong around a node with its log on a broker, one after the other
// on one broker, each in a virtual host of its own.
func TestFaults(t *testing.T) {
	tests := []struct {
		name string
		run  func(t *testing.T, b *local.Broker, vhost string)
	}{
		{"BrokerIsLate", testBrokerIsLate},
		{"ConnectionLost", testConnectionLost},
		{"Alarms", testAlarms},
		{"Trimmed", testTrimmed},
		{"Duplicates", testDuplicates},
		{"LargeCustomer", testLargeCustomer},
		{"Liars", testLiars},
	}
	var vhosts []string
	for _, test := range tests {
		vhosts = append(vhosts, test.name)
	}
	b := local.TestBroker(t, brokerOptions(vhosts...))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, b, test.name) })
	}
}

// throughProxy is a broker's URL with another address, and short heartbeats.
func throughProxy(t *testing.T, broker, addr string) string {
	t.Helper()
	u, err := url.Parse(broker)
	require.NoError(t, err)
	u.Host, u.RawQuery = addr, "heartbeat=1"
	return u.String()
}
