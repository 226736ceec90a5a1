package access

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config says what a node asks of its callers.
type Config struct {
	// TokensFile has the tokens; empty means that nobody is asked for one.
	TokensFile string
	// CertFile and KeyFile are the node's certificate; empty means no TLS.
	CertFile, KeyFile string
	// CAFile has the CAs that sign the nodes of the trust domain; empty means that no caller is a
	// node.
	CAFile string
	// TrustDomain is in the names of its nodes.
	TrustDomain string
	// Node is this node's name, where its certificate must have it since other nodes ask for it;
	// else empty.
	Node   string
	Limits Limits

	// Now is the clock; time.Now unless set. Every is how often the files are looked at (2 s).
	Now        func() time.Time
	Every      time.Duration
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Limits bound what callers may do. 0 is without bound.
type Limits struct {
	// RequestsPerSecond and RequestBurst are of one caller: a token's name, or an address.
	RequestsPerSecond, RequestBurst int
	// Connections are those of a listener, ConnectionsPerAddress those of them from one address.
	Connections, ConnectionsPerAddress int
}

// Access is what a node asks of its callers. Its methods may be called from any goroutine.
//
// Invariants:
//  1. tokens and trust are replaced as a whole, by values that are good, and never by none.
//  2. Whether there are tokens, TLS and a trust domain is decided by New for good.
type Access struct {
	cfg     Config
	now     func() time.Time
	logger  *slog.Logger
	log     *throttled
	metrics *metrics
	rates   *rates

	tokens atomic.Pointer[[]Token] // nil where nobody is asked for one
	trust  atomic.Pointer[trust]   // nil without TLS
	again  chan struct{}
	// renewed is called after trust was replaced.
	renewed atomic.Pointer[func()]

	mu    sync.Mutex // guards what follows: one reads the files at a time
	files map[string]*follower
}

// New reads the files. What is wrong with them is an error here; later it is not.
func New(c Config) (*Access, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Every == 0 {
		c.Every = 2 * time.Second
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, err
	}
	a := &Access{
		cfg: c, now: c.Now, logger: c.Logger, log: newThrottled(c.Logger, c.Now), metrics: m,
		rates: newRates(c.Limits.RequestsPerSecond, c.Limits.RequestBurst), again: make(chan struct{}, 1),
		files: map[string]*follower{},
	}
	if c.TokensFile != "" {
		a.files[fileTokens] = &follower{paths: []string{c.TokensFile}, use: a.useTokens}
	}
	if c.CertFile != "" {
		paths := []string{c.CertFile, c.KeyFile}
		if c.CAFile != "" {
			paths = append(paths, c.CAFile)
		}
		a.files[fileTLS] = &follower{paths: paths, use: a.useTrust}
	}
	for _, f := range a.files {
		if _, err := f.read(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *Access) useTokens(content [][]byte) error {
	tokens, err := DecodeTokens(content[0])
	if err != nil {
		return fmt.Errorf("auth.tokens_file %s: %w", a.cfg.TokensFile, err)
	}
	a.tokens.Store(&tokens)
	a.metrics.tokens.Set(float64(len(tokens)))
	return nil
}

func (a *Access) useTrust(content [][]byte) error {
	var ca []byte
	if len(content) > 2 {
		ca = content[2]
	}
	t, err := readTrust(content[0], content[1], ca, a.cfg.TrustDomain, a.cfg.Node, a.now())
	if err != nil {
		return err
	}
	a.trust.Store(t)
	if renewed := a.renewed.Load(); renewed != nil {
		(*renewed)()
	}
	a.metrics.expiry.Set(float64(t.cert.Leaf.NotAfter.Unix()))
	return nil
}

// OnRenewal has f called each time that the certificate or the CAs are others. It is called once.
func (a *Access) OnRenewal(f func()) { a.renewed.Store(&f) }

// Reload looks at the files now. It does not wait for it.
func (a *Access) Reload() {
	select {
	case a.again <- struct{}{}:
	default: // somebody has asked already
	}
}

// Run looks at the files every now and then, until ctx is done.
func (a *Access) Run(ctx context.Context) error {
	tick := time.NewTicker(a.cfg.Every)
	defer tick.Stop()
	var settled <-chan time.Time
	for {
		select {
		case <-tick.C:
		case <-a.again:
		case <-settled:
		case <-ctx.Done():
			return nil
		}
		settled = nil
		if a.look() {
			settled = time.After(settling)
		}
	}
}

// settling is how long files that do not fit may be in the midst of being changed.
const settling = time.Second

// look reads what has changed, and tells of a fault once the next look finds it, too. It
// reports whether there is one to look at again.
func (a *Access) look() (doubtful bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, f := range a.files {
		changed, err := f.read()
		fault := f.doubt
		f.doubt = nil
		switch {
		case err != nil && changed:
			f.doubt, doubtful = err, true
		case fault != nil && !changed:
			a.metrics.failed.WithLabelValues(name).Inc()
			a.logger.Error("a changed file cannot be used: what was before stays", "file", name, "error", fault)
		case changed:
			a.logger.Info("a changed file is used from now on", "file", name)
		}
	}
	if t := a.trust.Load(); t != nil && a.now().After(t.cert.Leaf.NotAfter) {
		a.log.Warn("the certificate in use has expired: put a new one in its place", "expired", t.cert.Leaf.NotAfter)
	}
	return doubtful
}

// Notes are what an operator should know.
func (a *Access) Notes() []string {
	if t := a.trust.Load(); t != nil && a.now().After(t.cert.Leaf.NotAfter) {
		return []string{"the certificate has expired on " + t.cert.Leaf.NotAfter.UTC().Format(time.RFC3339) + ": nobody should believe it"}
	}
	return nil
}

// follower reads files that belong together.
type follower struct {
	paths []string
	use   func(content [][]byte) error
	// seen is the sum of what was read last, good or bad, or of why it was not read.
	seen [sha256.Size]byte
	// doubt is a fault that the last look found. It is one if the next finds the same: a
	// certificate may have been read before its key was in place.
	doubt error
}

// largestFile bounds what is read of a file.
const largestFile = 4 << 20

// read uses the files where they have changed. An error is reported as a change once.
func (f *follower) read() (changed bool, err error) {
	var content [][]byte
	sum := sha256.New()
	for _, path := range f.paths {
		b, err := readFile(path)
		if err != nil {
			return f.note(sha256.Sum256([]byte(err.Error()))), err
		}
		_, _ = fmt.Fprintf(sum, "%d ", len(b)) // a hash never fails
		_, _ = sum.Write(b)
		content = append(content, b)
	}
	if !f.note([sha256.Size]byte(sum.Sum(nil))) {
		return false, nil
	}
	return true, f.use(content)
}

// note reports whether a sum is another than before.
func (f *follower) note(sum [sha256.Size]byte) bool {
	changed := f.seen != sum
	f.seen = sum
	return changed
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", path)
	case info.Size() > largestFile:
		return nil, fmt.Errorf("%s has %d bytes, at most %d", path, info.Size(), largestFile)
	}
	return os.ReadFile(path)
}
