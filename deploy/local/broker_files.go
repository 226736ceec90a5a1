package local

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// brokerFiles is the folder of a broker:
//
//	rabbitmq.conf, enabled_plugins, definitions.json   written anew by each start
//	home/.erlang.cookie                                the secret between the broker and its tools
//	data/                                              what it keeps
//	broker.log                                         what it says
type brokerFiles struct{ dir string }

func (f brokerFiles) path(name string) string { return filepath.Join(f.dir, name) }
func (f brokerFiles) log() string             { return f.path("broker.log") }
func (f brokerFiles) config() string          { return f.path("rabbitmq.conf") }
func (f brokerFiles) plugins() string         { return f.path("enabled_plugins") }
func (f brokerFiles) definitions() string     { return f.path("definitions.json") }
func (f brokerFiles) home() string            { return f.path("home") }
func (f brokerFiles) data() string            { return f.path("data") }

func (f brokerFiles) write(o BrokerOptions, port brokerPorts) error {
	for _, dir := range []string{f.home(), f.data()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := f.writeCookie(); err != nil {
		return err
	}
	users, err := defineUsers(o.Users, append([]string{vhost}, o.VHosts...))
	if err != nil {
		return err
	}
	config, err := f.settings(o, port)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(f.definitions(), users, 0o600),
		os.WriteFile(f.config(), config, 0o600),
		os.WriteFile(f.plugins(), fmt.Appendf(nil, "[%s].\n", strings.Join(o.Plugins, ",")), 0o600),
	)
}

// logged is how much the log has, in bytes.
func (f brokerFiles) logged() int64 {
	info, err := os.Stat(f.log())
	if err != nil {
		return 0
	}
	return info.Size()
}

// faults returns the first errors of the log from an offset on: what comes after them in a failed start is how processes of
// Erlang's took it.
func (f brokerFiles) faults(from int64) string {
	const most = 12
	text, err := os.ReadFile(f.log())
	if err != nil {
		return ""
	}
	var faults []string
	for line := range strings.Lines(string(text[min(from, int64(len(text))):])) {
		_, fault, ok := strings.Cut(line, "[error]")
		if _, fault, _ = strings.Cut(fault, "> "); ok && strings.Trim(fault, "= \n") != "" && len(faults) < most {
			faults = append(faults, strings.TrimRight(fault, "\n"))
		}
	}
	return strings.Join(faults, "\n")
}

// writeCookie makes the cookie where there is none. Erlang takes it only where nobody else may read it.
func (f brokerFiles) writeCookie() error {
	err := os.WriteFile(filepath.Join(f.home(), ".erlang.cookie"), []byte(rand.Text()), 0o400)
	if errors.Is(err, fs.ErrPermission) { // there is one, which is written once
		return nil
	}
	return err
}

// settings are rabbitmq.conf.
func (f brokerFiles) settings(o BrokerOptions, port brokerPorts) ([]byte, error) {
	s := map[string]string{
		"listeners.tcp.1": Address(port.amqp),
		// Users and their permissions come with the start: a tool would take half a second for each.
		"load_definitions": f.definitions(),
		// The default refuses to write below 50 MB; that is soon gone on a disk that is nearly full.
		"disk_free_limit.absolute": "100MB",
		"num_acceptors.tcp":        "2",
		"log.console":              "true",
		"log.console.level":        "info",
		"log.file":                 "false",
	}
	if port.tls != 0 {
		s["listeners.ssl.1"] = Address(port.tls)
		s["num_acceptors.ssl"] = "2"
		s["ssl_options.cacertfile"] = o.TLS.CA
		s["ssl_options.certfile"] = o.TLS.Cert
		s["ssl_options.keyfile"] = o.TLS.Key
		s["ssl_options.verify"] = "verify_none"
		if o.TLS.VerifyPeer {
			s["ssl_options.verify"] = "verify_peer"
			s["ssl_options.fail_if_no_peer_cert"] = "true"
		}
	}
	if port.management != 0 {
		s["management.tcp.ip"] = "127.0.0.1"
		s["management.tcp.port"] = strconv.Itoa(port.management)
	}
	if port.prometheus != 0 {
		s["prometheus.tcp.ip"] = "127.0.0.1"
		s["prometheus.tcp.port"] = strconv.Itoa(port.prometheus)
	}
	if port.stream != 0 {
		s["stream.listeners.tcp.1"] = Address(port.stream)
	}
	maps.Copy(s, o.Config)
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(s)) {
		// The file knows no quoting.
		if strings.ContainsAny(s[key], "\n#") {
			return nil, fmt.Errorf("rabbitmq.conf cannot hold %s = %q", key, s[key])
		}
		fmt.Fprintf(&b, "%s = %s\n", key, s[key])
	}
	return b.Bytes(), nil
}

// definitions are what RabbitMQ imports at its start.
type definitions struct {
	VHosts      []vhostDefinition      `json:"vhosts"`
	Users       []userDefinition       `json:"users"`
	Permissions []permissionDefinition `json:"permissions"`
}

type vhostDefinition struct {
	Name string `json:"name"`
}

type userDefinition struct {
	Name      string   `json:"name"`
	Hash      string   `json:"password_hash"`
	Algorithm string   `json:"hashing_algorithm"`
	Tags      []string `json:"tags"`
}

type permissionDefinition struct {
	User      string `json:"user"`
	VHost     string `json:"vhost"`
	Configure string `json:"configure"`
	Write     string `json:"write"`
	Read      string `json:"read"`
}

func defineUsers(users []User, vhosts []string) ([]byte, error) {
	var d definitions
	for _, name := range vhosts {
		d.VHosts = append(d.VHosts, vhostDefinition{name})
	}
	for _, u := range users {
		if u.Name == "" || u.Password == "" {
			return nil, fmt.Errorf("a user of a broker needs a name and a password: %q has not both", u.Name)
		}
		d.Users = append(d.Users, userDefinition{
			Name: u.Name, Hash: passwordHash(u.Password), Algorithm: "rabbit_password_hashing_sha256", Tags: append([]string{}, u.Tags...),
		})
		if !u.mayDoAnything() {
			continue
		}
		for _, name := range vhosts {
			d.Permissions = append(d.Permissions, permissionDefinition{
				User: u.Name, VHost: name, Configure: u.Configure, Write: u.Write, Read: u.Read,
			})
		}
	}
	return json.Marshal(d)
}

func (u User) mayDoAnything() bool { return u.Configure+u.Write+u.Read != "" }

// passwordHash is RabbitMQ's: a salt of four bytes, then SHA-256 of salt and password.
func passwordHash(password string) string {
	salt := make([]byte, 4)
	_, _ = rand.Read(salt) // it never fails
	sum := sha256.Sum256(append(salt, password...))
	return base64.StdEncoding.EncodeToString(append(salt, sum[:]...))
}
