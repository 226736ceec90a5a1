package config

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"footfall/messages/footfallv1"
)

// Config is everything that one node is told.
type Config struct {
	// Name is the node's, stable over its restarts: shards are acquired under it.
	Name  string
	Roles Roles
	// Zone is where it runs, for people.
	Zone string

	HTTPListen string
	GRPCListen string
	// HTTPAdvertise and GRPCAdvertise are where other nodes reach these, host:port; empty means
	// where they listen.
	HTTPAdvertise string
	GRPCAdvertise string
	// DebugListen serves pprof; empty means nobody does.
	DebugListen string
	// Insecure allows to listen beyond loopback although not everybody is asked who calls: see
	// Exposed.
	Insecure bool

	// TLS are the files of the node's own certificate, and of the CAs that sign the nodes of the
	// cluster, whose names are of TrustDomain.
	TLS         TLSFiles
	TrustDomain string
	// TokensFile holds the tokens that callers need; empty means that nobody is asked for one.
	TokensFile string

	// ClusterListen is where the gossip is, of a node whose store is shared: see Clustered.
	ClusterListen string
	// ClusterAdvertise is where other nodes reach it, host:port; empty means where it listens.
	ClusterAdvertise string
	// ClusterJoin are members to join, host:port; all addresses of a name are tried.
	ClusterJoin []string
	// ClusterKeysFile holds the keys that encrypt the gossip; empty means that it is not.
	ClusterKeysFile string

	// LogDir holds the log, where it is Pebble's; else it is empty, and LogBroker is the
	// AMQP URL of the RabbitMQ whose streams hold it.
	LogDir    string
	LogBroker string
	// LogTLS says how the broker is known, and how the node is known to it, on amqps.
	LogTLS TLSFiles
	// StoreDir holds the checkpoints, where the store is Pebble's; else it is empty, and
	// StoreDatabases are the URLs of the PostgreSQL databases that hold it.
	StoreDir       string
	StoreDatabases []string
	// LogAge and LogSize (of each shard) bound what the log keeps; 0 means without bound.
	LogAge  time.Duration
	LogSize int64
	// DiskReserve is the free space, in bytes, below which nothing more is taken in.
	DiskReserve int64

	// Clock is the mode of a log that does not name one yet. With the next three it is
	// what a shard's fold depends on; those are fixed when the data are created.
	Clock    footfallv1.ClockMode
	Location *time.Location
	Currency string
	Shards   int

	// ModelsDir holds a folder for each model. Where it is empty, ModelsURL is an object store that does.
	ModelsDir, ModelsURL string
	// ModelsCache holds copies of what an object store has, of at most ModelsCacheSize bytes.
	ModelsCache     string
	ModelsCacheSize int64
	// ModelsWatch is how often the node looks for versions and decisions; 0 means never.
	ModelsWatch time.Duration
	// ModelsCanary is the share of the customers that a new version gets by itself; 0 has it wait.
	ModelsCanary float64
	// InferenceDevices are those that run models; empty means every GPU, else one device of
	// the processor.
	InferenceDevices []string
	// InferenceRows and InferenceDelay bound a batch; InferenceThreads is how many cores
	// one may use, 0 for all but one. A device whose run takes longer than InferenceTimeout
	// is held to hang.
	InferenceRows    int
	InferenceDelay   time.Duration
	InferenceThreads int
	InferenceTimeout time.Duration
	// InferenceServers are servers of the Open Inference Protocol that are no members and
	// score rows that no device of this node takes, host:port.
	InferenceServers []string
	// GPUMemory is the share, in percent, of each GPU's memory that may be taken; GPUReserve
	// has it taken at once. GPUVisible lists the machine's numbers of the GPUs that the
	// process sees; empty means all.
	GPUMemory  int
	GPUReserve bool
	GPUVisible string

	// MemoryBudget bounds the resident customers, in bytes.
	MemoryBudget       int64
	CheckpointInterval time.Duration

	// MaxMessage is the largest request, and IngestBudget all that are being taken in at
	// once, in bytes.
	MaxMessage   int64
	IngestBudget int64
	// RequestsPerSecond and RequestBurst bound the calls of one caller, Connections those to a
	// listener, in all and from one address, and Streams the calls under way on one of gRPC; 0
	// is without bound.
	RequestsPerSecond     int
	RequestBurst          int
	Connections           int
	ConnectionsPerAddress int
	Streams               int
	// HeaderTimeout bounds how long the headers of a request, and a handshake, may take.
	HeaderTimeout time.Duration
	// QueryTimeout ends a call that comes without a deadline.
	QueryTimeout time.Duration
	// DrainTimeout bounds an orderly stop.
	DrainTimeout time.Duration

	LogLevel  string
	LogFormat string

	// TraceEndpoint is where traces go, see [ParseTraceEndpoint]; empty means that there are none.
	// TraceSample is the share of the calls without a trace of their own that get one.
	TraceEndpoint string
	TraceSample   float64

	// Unknown are variables of the environment that begin like ours but name no key.
	Unknown []string

	sources map[string]string
}

// TLSFiles are the files of one side of a TLS connection, in PEM; each may be empty.
type TLSFiles struct {
	// CA holds the certificates that the other side's is signed with, where they are not the
	// machine's own.
	CA string
	// Cert and Key are this side's.
	Cert, Key string
}

// Default returns the configuration of a node that is told nothing.
func Default() *Config {
	name, err := os.Hostname()
	if err != nil || (&nameValue{&name}).Set(name) != nil {
		name = "node"
	}
	return &Config{
		Name:                  name,
		Roles:                 Roles{RoleShards, RoleInference},
		HTTPListen:            "127.0.0.1:8080",
		GRPCListen:            "127.0.0.1:8081",
		ClusterListen:         "127.0.0.1:7946",
		LogDir:                "./data/log",
		StoreDir:              "./data/store",
		LogAge:                35 * 24 * time.Hour,
		DiskReserve:           512 << 20,
		Clock:                 footfallv1.ClockMode_CLOCK_MODE_WALL,
		Location:              time.UTC,
		Currency:              "USD",
		Shards:                64,
		ModelsDir:             "./models",
		ModelsCache:           "./data/models",
		ModelsCacheSize:       4 << 30,
		ModelsWatch:           5 * time.Second,
		ModelsCanary:          .1,
		InferenceRows:         1024,
		InferenceDelay:        2 * time.Millisecond,
		InferenceTimeout:      10 * time.Second,
		GPUMemory:             100,
		MemoryBudget:          2 << 30,
		CheckpointInterval:    10 * time.Second,
		TrustDomain:           "footfall",
		RequestsPerSecond:     10_000,
		RequestBurst:          20_000,
		Connections:           10_000,
		ConnectionsPerAddress: 2_000,
		Streams:               1024,
		HeaderTimeout:         10 * time.Second,
		MaxMessage:            16 << 20,
		IngestBudget:          256 << 20,
		QueryTimeout:          10 * time.Second,
		DrainTimeout:          30 * time.Second,
		LogLevel:              "info",
		LogFormat:             "text",
		TraceSample:           .01,
		sources:               map[string]string{},
	}
}

// Validate checks what no single key can: that they fit together. The error is [Faults].
func (c *Config) Validate() error {
	var faults Faults
	fault := func(key, reason string) {
		faults = append(faults, Fault{Key: key, Source: c.sources[key], Reason: reason})
	}
	if !c.Roles.Has(RoleShards) && !c.Clustered() {
		fault("node.roles", "needs shards: a node on its own has nobody else who holds them")
	}
	c.validateAccess(fault)
	ls := c.listeners()
	for i, a := range ls {
		for _, b := range ls[:i] {
			if a.addr != "" && a.addr == b.addr && !portZero(a.addr) {
				if c.sources[a.key] == "" && c.sources[b.key] != "" {
					a, b = b, a // the fault is where something was written
				}
				fault(a.key, "is the address of "+b.key+" already")
			}
		}
	}
	if c.LogDir != "" && filepath.Clean(c.LogDir) == filepath.Clean(c.StoreDir) {
		fault("store.url", "names the directory of log.url: each needs one of its own")
	}
	if len(c.StoreDatabases) > 0 && c.LogBroker == "" {
		fault("store.url", "is shared with other nodes, and the log in log.url is this node's alone: put that on RabbitMQ")
	}
	if len(c.ClusterJoin) > 0 && !c.Clustered() {
		fault("cluster.join", "needs a store that the nodes share, and store.url is this node's alone: put it on PostgreSQL, and log.url on RabbitMQ")
	}
	if (c.LogTLS.Cert == "") != (c.LogTLS.Key == "") {
		fault("log.tls.cert", "needs log.tls.key, and that needs it")
	}
	if c.LogTLS != (TLSFiles{}) && !strings.HasPrefix(c.LogBroker, "amqps:") {
		fault("log.tls.ca", "is for a log.url that begins with amqps:")
	}
	if c.IngestBudget < c.MaxMessage {
		fault("ingest.budget", "is below limits.max_message: no request of that size could ever be taken in")
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}

// Clustered tells whether the node is one of a cluster: its store is one that others can share.
func (c *Config) Clustered() bool { return len(c.StoreDatabases) > 0 }

type listener struct{ key, addr string }

func (c *Config) listeners() []listener {
	ls := []listener{{"http.listen", c.HTTPListen}, {"grpc.listen", c.GRPCListen}, {"debug.listen", c.DebugListen}}
	if c.Clustered() {
		ls = append(ls, listener{"cluster.listen", c.ClusterListen})
	}
	return ls
}

// loopback tells whether only this machine can reach an address. A host name other than
// localhost may resolve to anything.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func portZero(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	return err == nil && port == "0"
}

// A role says what a node does for its cluster.
const (
	RoleShards    = "shards"
	RoleInference = "inference"
)

// Roles are what a node does, in the order they were given.
type Roles []string

// Has reports whether a node has a role.
func (r Roles) Has(role string) bool {
	return slices.Contains(r, role)
}
