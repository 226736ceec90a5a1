package access

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
)

// BenchmarkTap is what asking costs each call, by how many tokens there are.
func BenchmarkTap(b *testing.B) {
	ctx := peer.NewContext(b.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}})
	for _, n := range []int{0, 1, 10, 100, maxTokens} {
		b.Run(fmt.Sprintf("tokens=%d", n), func(b *testing.B) {
			var (
				file   strings.Builder
				secret string
			)
			for i := range n {
				s, t, err := NewToken(fmt.Sprint(i), RolesOf(Read), time.Time{})
				require.NoError(b, err)
				file.WriteString(t.Line() + "\n")
				secret = s
			}
			c := Config{Limits: Limits{RequestsPerSecond: 1 << 30, RequestBurst: 1 << 30}, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}
			if n > 0 {
				c.TokensFile = filepath.Join(b.TempDir(), "tokens.yaml")
				require.NoError(b, os.WriteFile(c.TokensFile, []byte(file.String()), 0o600))
			}
			a, err := New(c)
			require.NoError(b, err)
			info := &tap.Info{FullMethodName: "/footfall.v1.CustomerService/GetCustomer", Header: metadata.Pairs("authorization", "Bearer "+secret)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Tap(ctx, info); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
