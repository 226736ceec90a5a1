package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"footfall/messages/footfallv1"
)

// load reads a file's text with an environment and arguments.
func load(t *testing.T, file string, environ []string, args ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
	flags := pflag.NewFlagSet("node", pflag.ContinueOnError)
	AddFlags(flags)
	require.NoError(t, flags.Parse(args))
	return Load(Sources{File: path, Environ: environ, Flags: flags})
}

func TestLayersLieOverEachOther(t *testing.T) {
	c, err := load(t, `
http:
  listen: 127.0.0.1:1001
grpc.listen: 127.0.0.1:1002   # with dots is as good
node: {name: from-file, roles: [shards]}
log: {url: "pebble:/data/log", retention: {age: 12h, size: 10GiB}}
clock: driven
timezone: America/New_York
shards: 8
insecure: true
`, []string{"FOOTFALL_GRPC_LISTEN=127.0.0.1:2002", "FOOTFALL_NODE_NAME=from-env", "FOOTFALL_MODELS_URL=file:///srv/models", "PATH=/bin"},
		"--node-name=from-flag", "--inference.max_rows=64")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:1001", c.HTTPListen)
	require.Equal(t, "127.0.0.1:2002", c.GRPCListen)
	require.Equal(t, "from-flag", c.Name)
	require.Equal(t, Roles{RoleShards}, c.Roles)
	require.Equal(t, "/data/log", c.LogDir)
	require.Equal(t, "./data/store", c.StoreDir)
	require.Equal(t, 12*time.Hour, c.LogAge)
	require.Equal(t, int64(10<<30), c.LogSize)
	require.Equal(t, footfallv1.ClockMode_CLOCK_MODE_DRIVEN, c.Clock)
	require.Equal(t, "America/New_York", c.Location.String())
	require.Equal(t, 8, c.Shards)
	require.Equal(t, "/srv/models", c.ModelsDir)
	require.Equal(t, 64, c.InferenceRows)
	require.True(t, c.Insecure)
	require.Empty(t, c.Unknown)
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	_, err := load(t, `
htpp: {listen: 127.0.0.1:1}
http: {listen: 0.0.0.0:8080, listen_address: x}
shards: 12
tls: {cert: a.pem}
store: {url: "pebble:./data/log"}
log: {retention: {age: soon}}
currency: [usd]
shards: 16
node: {name: {first: x}}
`, []string{"FOOTFALL_CLOCK=sun", "FOOTFALL_TIMEZONE=Local"}, "--memory-budget=lots", "--checkpoint-interval=0s")
	var faults Faults
	require.ErrorAs(t, err, &faults)
	require.True(t, IsFault(err))
	got := map[string]string{}
	for _, f := range faults {
		got[f.Key] += f.Source[strings.LastIndexByte(f.Source, '/')+1:] + " " + f.Reason
	}
	require.Equal(t, map[string]string{
		"htpp":                "node.yaml:2 no such key",
		"http.listen":         "node.yaml:3 0.0.0.0:8080 can be reached from other machines without tls.cert_file and tls.key_file (what is said can be read on its way) and without auth.tokens_file (nobody is asked who calls): set that (footfall certs, footfall token and footfall gossipkey make what is in the files), or listen on 127.0.0.1, or set insecure to true",
		"http.listen_address": "node.yaml:3 no such key",
		"shards":              `node.yaml:4 must be a power of two from 1 to 16384, not "12"node.yaml:9 stands in line 4 already`,
		"tls.cert":            "node.yaml:5 no such key: did you mean log.tls.cert?",
		"store.url":           "node.yaml:6 names the directory of log.url: each needs one of its own",
		"log.retention.age":   `node.yaml:7 must be a duration like 90s, 12h or 35d, not "soon"`,
		"currency":            `node.yaml:8 must be three capital letters (ISO 4217), not "usd"`,
		"node.name":           "node.yaml:10 must be one value, or a list of values",
		"clock":               `FOOTFALL_CLOCK must be wall or driven, not "sun"`,
		"timezone":            "FOOTFALL_TIMEZONE must be a name of the time zone database, like America/New_York: a machine's own may change",
		"memory.budget":       `--memory-budget must be a size like 512MiB or 2GiB, not "lots"`,
		"checkpoint.interval": "--checkpoint-interval must be above 0",
	}, got)
	require.Contains(t, err.Error(), "configuration has ")
}

func TestValues(t *testing.T) {
	for _, tt := range []struct{ key, value, reason string }{
		{"http.listen", "8080", "must be HOST:PORT"},
		{"http.listen", "127.0.0.1:http", "port from 0 to 65535"},
		{"http.listen", "127.0.0.1:65536", "port from 0 to 65535"},
		{"http.listen", "example.com:80", "can be reached from other machines"},
		{"http.listen", ":80", "can be reached from other machines"},
		{"http.listen", "127.0.0.1:8081", "is the address of grpc.listen already"},
		{"http.listen", "[::1]:80", ""},
		{"http.listen", "localhost:0", ""},
		{"debug.listen", "", ""},
		{"debug.listen", "192.0.2.1:6060", "can be reached from other machines"},
		{"log.url", "amqp://localhost:port", "is no URL of a broker"},
		{"log.url", "kafka://localhost", "must be pebble:DIR"},
		{"log.url", "pebble:", "must name a directory"},
		{"store.url", "mysql://localhost", "must be pebble:DIR"},
		{"store.url", "postgres://localhost", "put that on RabbitMQ"},
		{"http.advertise", "shop.example:80", ""},
		{"http.advertise", "0.0.0.0:80", "must name one machine"},
		{"grpc.advertise", ":8081", "must be HOST:PORT"},
		{"cluster.advertise", "n1:0", "port from 1 to 65535"},
		{"cluster.join", "n1", "must be HOST:PORT"},
		{"cluster.join", "n1:1, n1:1", "names n1:1 twice"},
		{"cluster.join", "n1:7946", "needs a store that the nodes share"},
		{"cluster.listen", "0.0.0.0:7946", ""}, // nobody listens there without others
		{"models.url", "s3://bucket?region=eu-west-1&prefix=models/", ""},
		{"models.url", "gs://bucket", ""},
		{"models.url", "s3:", "is no URL of an object store"},
		{"models.url", "ftp://bucket", "must be file:DIR, or an object store"},
		{"models.canary", "0", ""},
		{"models.canary", "0.25", ""},
		{"models.canary", "100%", "must be from 0% to 99%"},
		{"models.watch", "0", ""},
		{"node.name", "", "1 to 63 characters"},
		{"node.name", "a b", "must be of letters"},
		{"node.roles", "shards,shards", "twice"},
		{"node.roles", "cook", "not \"cook\""},
		{"node.roles", "inference", "needs shards"},
		{"shards", "0", "power of two"},
		{"shards", "32768", "power of two"},
		{"insecure", "yes", "true or false"},
		{"log.retention.age", "-1h", "below 0"},
		{"log.retention.age", "0", ""},
		{"log.retention.age", "99999999999d", "duration"},
		{"memory.budget", "0", "above 0"},
		{"memory.budget", "9999999999GiB", "size"},
		{"memory.budget", "-1", "size"},
		{"inference.max_rows", "0", "from 1"},
		{"inference.devices", "auto", ""},
		{"inference.devices", "GPU:0, GPU:1", ""},
		{"inference.devices", "", "must be auto, or devices"},
		{"inference.devices", "CPU", "must be auto, or devices"},
		{"inference.devices", "CPU:00", "must be auto, or devices"},
		{"inference.devices", "auto,CPU:0", "must be auto, or devices"},
		{"inference.devices", "CPU:0,CPU:0", "names CPU:0 twice"},
		{"inference.run_timeout", "0s", "above 0"},
		{"inference.gpu_memory", "80%", ""},
		{"inference.gpu_memory", "80", "from 1% to 100%"},
		{"inference.gpu_memory", "0%", "from 1% to 100%"},
		{"inference.gpu_memory", "101%", "from 1% to 100%"},
		{"inference.gpu_visible", "", ""},
		{"inference.gpu_visible", "0, 2", ""},
		{"inference.gpu_visible", "0,", "numbers like 0,2"},
		{"inference.gpu_visible", "1,01", "names 1 twice"},
		{"ingest.budget", "1MiB", "below limits.max_message"},
		{"currency", "EURO", "three capital letters"},
		{"logging.level", "loud", "must be one of"},
		{"timezone", "Atlantis/Capital", "time zone database"},
	} {
		t.Run(tt.key+"="+tt.value, func(t *testing.T) {
			_, err := load(t, "", []string{keyByName[tt.key].Env() + "=" + tt.value})
			if tt.reason == "" {
				require.NoError(t, err)
				return
			}
			var faults Faults
			require.ErrorAs(t, err, &faults)
			require.Len(t, faults, 1)
			require.Equal(t, tt.key, faults[0].Key)
			require.Contains(t, faults[0].Reason, tt.reason)
		})
	}
}

func TestFiles(t *testing.T) {
	t.Run("a named one must exist", func(t *testing.T) {
		_, err := Load(Sources{File: filepath.Join(t.TempDir(), "none.yaml")})
		require.ErrorIs(t, err, os.ErrNotExist)
		_, err = Load(Sources{Environ: []string{"FOOTFALL_CONFIG=" + filepath.Join(t.TempDir(), "none.yaml")}})
		require.ErrorIs(t, err, os.ErrNotExist)
	})
	t.Run("the default one need not, and is read where it does", func(t *testing.T) {
		t.Chdir(t.TempDir())
		c, err := Load(Sources{})
		require.NoError(t, err)
		require.Equal(t, 64, c.Shards)
		require.NoError(t, os.WriteFile(DefaultFile, []byte("shards: 4"), 0o600))
		c, err = Load(Sources{})
		require.NoError(t, err)
		require.Equal(t, 4, c.Shards)
	})
	for _, text := range []string{"", "# nothing", "---\n", "http:\n", "null"} {
		c, err := load(t, text, nil)
		require.NoError(t, err, text)
		require.Equal(t, "127.0.0.1:8080", c.HTTPListen)
	}
	for _, text := range []string{"a: [", "- a", "text", "shards: 4\n---\nshards: 8", "\x00"} {
		_, err := load(t, text, nil)
		require.True(t, IsFault(err), "%q: %v", text, err)
	}
}

func TestUnknownVariablesAreNoticed(t *testing.T) {
	c, err := load(t, "", []string{"FOOTFALL_WAREHOUSE_URL=a:1", "FOOTFALL_HTTP_LISTN=x", "FOOTFALL_NODE=127.0.0.1:1", "FOOTFALL_HEAVY=1", "HOME=/"})
	require.NoError(t, err)
	require.Equal(t, []string{"FOOTFALL_HTTP_LISTN", "FOOTFALL_WAREHOUSE_URL"}, c.Unknown)
}

func TestAPrintedConfigurationGivesItselfAgain(t *testing.T) {
	c, err := load(t, "timezone: Europe/Berlin\nlog: {retention: {age: 35d}}\ninference: {max_delay: 1500us, devices: [CPU:0, CPU:1], gpu_memory: 80%, gpu_visible: [0, 2]}", []string{"FOOTFALL_MEMORY_BUDGET=1536MiB"}, "--insecure", "--http-listen=0.0.0.0:80")
	require.NoError(t, err)
	var out strings.Builder
	require.NoError(t, c.WriteYAML(&out))
	require.Contains(t, out.String(), "budget: 1536MiB # memory of resident customers (FOOTFALL_MEMORY_BUDGET)")
	again, err := load(t, out.String(), nil)
	require.NoError(t, err)
	c.sources, again.sources = nil, nil
	require.Equal(t, c, again)
	exposed := again.Exposed()
	require.Len(t, exposed, 1)
	require.Equal(t, "http.listen", exposed[0].Key)
	require.Len(t, exposed[0].Missing, 2)
}

func TestWhoListensBeyondThisMachineIsAskedForWhat(t *testing.T) {
	const (
		tls    = "\ntls: {cert_file: n.pem, key_file: n-key.pem}"
		ca     = "\ntls: {cert_file: n.pem, key_file: n-key.pem, ca_file: ca.pem}"
		tokens = "\nauth: {tokens_file: tokens.yaml}"
		keys   = "\ncluster.keys_file: gossip.keys"
		shared = "\nlog: {url: \"amqp://broker\"}\nstore: {url: \"postgres://db/footfall\"}"
	)
	for _, tt := range []struct {
		file   string
		faults map[string]string // a part of each, by key
	}{
		{"http.listen: :80" + tls, map[string]string{"http.listen": "auth.tokens_file"}},
		{"http.listen: :80" + tokens, map[string]string{"http.listen": "tls.cert_file"}},
		{"http.listen: :80" + tls + tokens, nil},
		{"grpc.listen: :81" + tokens, map[string]string{"grpc.listen": "tls.cert_file"}},
		{"grpc.listen: :81" + tls + tokens, nil},
		{"debug.listen: :82" + tls + tokens, map[string]string{"debug.listen": "127.0.0.1"}},
		{"debug.listen: :82\ninsecure: true", nil},
		{"http.listen: :80\ngrpc.listen: :81\ncluster.listen: :82\ninsecure: true" + shared, nil},
		{"cluster.listen: :82" + shared, map[string]string{"cluster.listen": "cluster.keys_file"}},
		{"cluster.listen: :82" + shared + keys, nil},
		{"grpc.listen: :81" + shared + tls + tokens, map[string]string{"tls.cert_file": "tls.ca_file"}},
		{"grpc.listen: :81" + shared + ca + tokens, nil},
		// Nodes that know each other by nothing could not call each other.
		{shared + tokens, map[string]string{"auth.tokens_file": "tls.ca_file"}},
		{"insecure: true" + shared + tokens, map[string]string{"auth.tokens_file": "tls.ca_file"}},
		{"tls.cert_file: n.pem", map[string]string{"tls.cert_file": "tls.key_file"}},
		{"tls.key_file: n.pem", map[string]string{"tls.cert_file": "tls.key_file"}},
		{"tls.ca_file: ca.pem", map[string]string{"tls.ca_file": "tls.cert_file"}},
	} {
		_, err := load(t, tt.file, nil)
		var faults Faults
		if tt.faults == nil {
			require.NoError(t, err, tt.file)
			continue
		}
		require.ErrorAs(t, err, &faults, tt.file)
		require.Len(t, faults, len(tt.faults), tt.file)
		for _, f := range faults {
			require.Contains(t, f.Reason, tt.faults[f.Key], tt.file)
			require.NotEmpty(t, tt.faults[f.Key], f.Key)
		}
	}
}

func TestTheLogIsInOnePlace(t *testing.T) {
	const broker = "amqps://node:s3cr3t@broker:5671/retail"
	c, err := load(t, "log: {url: \"pebble:/data/log\", tls: {ca: ca.pem}}", []string{"FOOTFALL_LOG_URL=" + broker})
	require.NoError(t, err)
	require.Empty(t, c.LogDir)
	require.Equal(t, broker, c.LogBroker)
	require.Equal(t, TLSFiles{CA: "ca.pem"}, c.LogTLS)
	var out strings.Builder
	require.NoError(t, c.WriteYAML(&out))
	require.Contains(t, out.String(), "amqps://node:xxxxx@broker:5671/retail")
	require.NotContains(t, out.String(), "s3cr3t")

	c, err = load(t, "", []string{"FOOTFALL_LOG_URL=" + broker}, "--log-url=pebble:elsewhere")
	require.NoError(t, err)
	require.Equal(t, "elsewhere", c.LogDir)
	require.Empty(t, c.LogBroker)

	c, err = load(t, "store: {url: [\"postgres://node:s3cr3t@db-0/footfall\", \"postgres://db-1/footfall?password=s3cr3t\"]}", []string{"FOOTFALL_LOG_URL=" + broker})
	require.NoError(t, err)
	require.Len(t, c.StoreDatabases, 2)
	require.Empty(t, c.StoreDir)
	out.Reset()
	require.NoError(t, c.WriteYAML(&out))
	require.NotContains(t, out.String(), "s3cr3t")
	require.Contains(t, out.String(), "postgres://node:xxxxx@db-0/footfall")
	for _, text := range []string{"mysql://node:s3cr3t@db", "postgres://node:s3cr3t@db:port", "postgres://db/a,postgres://db/a"} {
		_, err = load(t, "", []string{"FOOTFALL_LOG_URL=" + broker}, "--store-url="+text)
		require.ErrorContains(t, err, "store.url")
		require.NotContains(t, err.Error(), "s3cr3t")
	}
	_, err = load(t, "", nil, "--store-url=postgres://db/footfall")
	require.ErrorContains(t, err, "put that on RabbitMQ")

	for _, text := range []string{"amqp://node:s3cr3t@broker:port", "http://node:s3cr3t@broker"} {
		_, err = load(t, "", nil, "--log-url="+text)
		require.ErrorContains(t, err, "log.url")
		require.NotContains(t, err.Error(), "s3cr3t")
	}
	_, err = load(t, "", []string{"FOOTFALL_LOG_URL=amqp://broker"}, "--log-tls-cert=a.pem")
	require.ErrorContains(t, err, "needs log.tls.key")
	require.ErrorContains(t, err, "begins with amqps:")
}

func FuzzFile(f *testing.F) {
	f.Add("http: {listen: 127.0.0.1:1}\nshards: 8")
	f.Add("a: &a {b: *a}")
	f.Add("http: &h {listen: x}\ngrpc: *h")
	f.Add("? [a]\n: b")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "f.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		c, err := Load(Sources{File: path})
		if err == nil {
			require.NoError(t, c.Validate())
			return
		}
		require.True(t, IsFault(err), "%v", err)
	})
}
