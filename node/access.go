package node

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"footfall/node/access"
	"footfall/node/config"
)

// openAccess reads what callers are asked for.
func openAccess(cfg *config.Config, now func() time.Time, logger *slog.Logger, reg prometheus.Registerer) (*access.Access, error) {
	c := access.Config{
		TokensFile: cfg.TokensFile,
		CertFile:   cfg.TLS.Cert, KeyFile: cfg.TLS.Key, CAFile: cfg.TLS.CA,
		TrustDomain: cfg.TrustDomain,
		Limits: access.Limits{
			RequestsPerSecond: cfg.RequestsPerSecond, RequestBurst: cfg.RequestBurst,
			Connections: cfg.Connections, ConnectionsPerAddress: cfg.ConnectionsPerAddress,
		},
		Now: now, Logger: logger, Registerer: reg,
	}
	if cfg.Clustered() && cfg.TLS.CA != "" {
		c.Node = cfg.Name
	}
	return access.New(c)
}

// serveHTTP serves with TLS where there is a certificate.
func (n *Node) serveHTTP() error {
	l := n.access.Listen("http", n.httpListener)
	if n.api.HTTP.TLSConfig != nil {
		return n.api.HTTP.ServeTLS(l, "", "")
	}
	return n.api.HTTP.Serve(l)
}

// Reload has the node look now at the files that it reads again when they change.
func (n *Node) Reload() { n.access.Reload() }

// warnExposed says, at every start, what other machines can reach although nobody asks them.
func (n *Node) warnExposed() {
	for _, e := range n.cfg.Exposed() {
		n.logger.Warn("insecure: other machines can reach this listener", "key", e.Key, "address", e.Address, "missing", e.Missing)
	}
	if n.cfg.TokensFile != "" && n.cfg.TLS.Cert == "" && len(n.cfg.Exposed()) > 0 {
		n.logger.Warn("insecure: tokens can be read on their way", "missing", "tls.cert_file")
	}
}
