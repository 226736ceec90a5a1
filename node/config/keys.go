package config

import "strings"

// Key is one thing that a node can be told.
type Key struct {
	Name  string
	Usage string
	value func(*Config) value
}

// Env is the key's variable: FOOTFALL_HTTP_LISTEN.
func (k Key) Env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// Flag is the key's flag, without dashes: http-listen.
func (k Key) Flag() string { return flagName(k.Name) }

// Keys are all of them, in the order in which they are shown.
func Keys() []Key { return keys }

var keys = []Key{
	{"node.name", "name of this node, stable over restarts", func(c *Config) value { return &nameValue{&c.Name} }},
	{"node.roles", "what it does: shards, inference", func(c *Config) value { return &rolesValue{&c.Roles} }},
	{"node.zone", "where it runs, for people", func(c *Config) value { return &textValue{&c.Zone} }},

	{"http.listen", "address of REST, metrics and health", func(c *Config) value { return &addrValue{p: &c.HTTPListen} }},
	{"http.advertise", "where other nodes and people reach it; empty: where it listens", func(c *Config) value { return &reachValue{&c.HTTPAdvertise} }},
	{"grpc.listen", "address of gRPC", func(c *Config) value { return &addrValue{p: &c.GRPCListen} }},
	{"grpc.advertise", "where other nodes reach it; empty: where it listens", func(c *Config) value { return &reachValue{&c.GRPCAdvertise} }},
	{"debug.listen", "address of pprof; empty: off", func(c *Config) value { return &addrValue{p: &c.DebugListen, optional: true} }},
	{"insecure", "listen beyond loopback without TLS, tokens or gossip keys", func(c *Config) value { return &boolValue{&c.Insecure} }},

	{"tls.cert_file", "certificate of http.listen and grpc.listen, in PEM; empty: no TLS", func(c *Config) value { return &textValue{&c.TLS.Cert} }},
	{"tls.key_file", "key of that certificate", func(c *Config) value { return &textValue{&c.TLS.Key} }},
	{"tls.ca_file", "CAs that sign the nodes of the cluster, and nobody else", func(c *Config) value { return &textValue{&c.TLS.CA} }},
	{"tls.trust_domain", "in the names of its nodes: footfall://TRUST-DOMAIN/node/NAME", func(c *Config) value { return &nameValue{&c.TrustDomain} }},
	{"auth.tokens_file", "tokens that callers need, with their roles; empty: nobody is asked", func(c *Config) value { return &textValue{&c.TokensFile} }},

	{"cluster.listen", "address of gossip, where the store is shared", func(c *Config) value { return &addrValue{p: &c.ClusterListen} }},
	{"cluster.advertise", "where other nodes reach it; empty: where it listens", func(c *Config) value { return &reachValue{&c.ClusterAdvertise} }},
	{"cluster.join", "members to join: HOST:PORT, or a list, or a DNS name of several", func(c *Config) value { return &seedsValue{&c.ClusterJoin} }},
	{"cluster.keys_file", "keys that encrypt the gossip; empty: it is not", func(c *Config) value { return &textValue{&c.ClusterKeysFile} }},

	{"log.url", "where the log is: pebble:DIR, or RabbitMQ's URL (amqp:, amqps:)", func(c *Config) value { return &logValue{&c.LogDir, &c.LogBroker} }},
	{"log.tls.ca", "CA of an amqps broker; empty: the machine's", func(c *Config) value { return &textValue{&c.LogTLS.CA} }},
	{"log.tls.cert", "certificate shown to an amqps broker", func(c *Config) value { return &textValue{&c.LogTLS.Cert} }},
	{"log.tls.key", "key of that certificate", func(c *Config) value { return &textValue{&c.LogTLS.Key} }},
	{"log.retention.age", "how long events stay in the log; 0: for ever", func(c *Config) value { return &durationValue{p: &c.LogAge, zero: true} }},
	{"log.retention.size", "how much of each shard's log stays; 0: all", func(c *Config) value { return &bytesValue{p: &c.LogSize, zero: true} }},
	{"store.url", "where checkpoints are: pebble:DIR, or PostgreSQL's URL or a list of them (postgres:)", func(c *Config) value { return &storeValue{&c.StoreDir, &c.StoreDatabases} }},
	{"disk.reserve", "free space below which nothing more is taken in", func(c *Config) value { return &bytesValue{p: &c.DiskReserve, zero: true} }},

	{"clock", "who ends a day: wall, or driven by a replay", func(c *Config) value { return &clockValue{&c.Clock} }},
	{"timezone", "the retailer's time zone; fixed at creation", func(c *Config) value { return &zoneValue{&c.Location} }},
	{"currency", "the currency of all money; fixed at creation", func(c *Config) value { return &currencyValue{&c.Currency} }},
	{"shards", "number of shards, a power of two; fixed at creation", func(c *Config) value { return &shardsValue{&c.Shards} }},

	{"models.url", "where the models are: file:DIR, or an object store (s3:, gs:, azblob:)", func(c *Config) value { return &modelsValue{&c.ModelsDir, &c.ModelsURL} }},
	{"models.watch", "how often to look for new versions and decisions about them; 0: never", func(c *Config) value { return &durationValue{p: &c.ModelsWatch, zero: true} }},
	{"models.canary", "share of the customers that a new version scores by itself; 0: it waits", func(c *Config) value { return &splitValue{&c.ModelsCanary} }},
	{"models.cache", "directory for copies of what an object store has", func(c *Config) value { return &textValue{&c.ModelsCache} }},
	{"models.cache_size", "most bytes of them", func(c *Config) value { return &bytesValue{p: &c.ModelsCacheSize} }},
	{"inference.devices", "what runs models: auto (every GPU, else CPU:0), or a list like GPU:0,GPU:1", func(c *Config) value { return &devicesValue{&c.InferenceDevices} }},
	{"inference.max_rows", "most rows of a batch", func(c *Config) value { return &intValue{p: &c.InferenceRows, least: 1, most: 1 << 16} }},
	{"inference.max_delay", "how long a batch waits to fill", func(c *Config) value { return &durationValue{p: &c.InferenceDelay, zero: true} }},
	{"inference.threads", "threads that share one operation of a model; 0: all cores but one", func(c *Config) value { return &intValue{p: &c.InferenceThreads, most: 1024} }},
	{"inference.run_timeout", "a device whose run takes longer hangs, and is taken out", func(c *Config) value { return &durationValue{p: &c.InferenceTimeout} }},
	{"inference.servers", "servers of the Open Inference Protocol (gRPC) that score what no own device takes: HOST:PORT, or a list", func(c *Config) value { return &seedsValue{&c.InferenceServers} }},
	{"inference.gpu_memory", "share of each GPU's memory that may be taken", func(c *Config) value { return &percentValue{&c.GPUMemory} }},
	{"inference.gpu_reserve", "take that memory at once, not as it is needed", func(c *Config) value { return &boolValue{&c.GPUReserve} }},
	{"inference.gpu_visible", "numbers of the GPUs to see, like 0,2; empty: all", func(c *Config) value { return &numbersValue{&c.GPUVisible} }},

	{"memory.budget", "memory of resident customers", func(c *Config) value { return &bytesValue{p: &c.MemoryBudget} }},
	{"checkpoint.interval", "how long changes wait for a checkpoint", func(c *Config) value { return &durationValue{p: &c.CheckpointInterval} }},

	{"limits.max_message", "the largest request", func(c *Config) value { return &bytesValue{p: &c.MaxMessage} }},
	{"limits.requests_per_second", "calls of one token, or else of one address; 0: without bound", func(c *Config) value { return &intValue{p: &c.RequestsPerSecond, most: 1 << 30} }},
	{"limits.request_burst", "calls of it at once", func(c *Config) value { return &intValue{p: &c.RequestBurst, least: 1, most: 1 << 30} }},
	{"limits.connections", "connections to a listener; 0: without bound", func(c *Config) value { return &intValue{p: &c.Connections, most: 1 << 30} }},
	{"limits.connections_per_address", "those from one address; 0: without bound", func(c *Config) value { return &intValue{p: &c.ConnectionsPerAddress, most: 1 << 30} }},
	{"limits.streams", "calls under way on one connection of gRPC", func(c *Config) value { return &intValue{p: &c.Streams, least: 1, most: 1 << 20} }},
	{"limits.header_timeout", "how long a handshake, or the headers of a request, may take", func(c *Config) value { return &durationValue{p: &c.HeaderTimeout} }},
	{"ingest.budget", "requests being taken in at once", func(c *Config) value { return &bytesValue{p: &c.IngestBudget} }},
	{"query.timeout", "ends a call that has no deadline", func(c *Config) value { return &durationValue{p: &c.QueryTimeout} }},
	{"drain.timeout", "bounds an orderly stop", func(c *Config) value { return &durationValue{p: &c.DrainTimeout} }},

	{"logging.level", "debug, info, warn or error", func(c *Config) value { return &wordValue{&c.LogLevel, []string{"debug", "info", "warn", "error"}} }},
	{"logging.format", "text or json", func(c *Config) value { return &wordValue{&c.LogFormat, []string{"text", "json"}} }},
	{"trace.endpoint", "where traces go: http://HOST:PORT, grpc://HOST:PORT or file:PATH; empty: there are none", func(c *Config) value { return &traceValue{&c.TraceEndpoint} }},
	{"trace.sample", "share of the calls without a trace of their own that get one", func(c *Config) value { return &sampleValue{&c.TraceSample} }},
}

var keyByName = func() map[string]Key {
	m := make(map[string]Key, len(keys))
	for _, k := range keys {
		m[k.Name] = k
	}
	return m
}()
