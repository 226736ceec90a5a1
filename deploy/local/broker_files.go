package local

import (
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
	definitions, err := definitions(o.Users)
	if err != nil {
		return err
	}
	config, err := f.settings(o, port)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(f.definitions(), definitions, 0o600),
		os.WriteFile(f.config(), config, 0o600),
		os.WriteFile(f.plugins(), fmt.Appendf(nil, "[%s].\n", strings.Join(o.Plugins, ",")), 0o600),
	)
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
		// Users and their permissions come with the start, without a tool that takes a second for each.
		"load_definitions": f.definitions(),
		// What guards a machine that a broker has to itself.
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
		s["management.tcp.port"] = fmt.Sprint(port.management)
	}
	if port.prometheus != 0 {
		s["prometheus.tcp.ip"] = "127.0.0.1"
		s["prometheus.tcp.port"] = fmt.Sprint(port.prometheus)
	}
	if port.stream != 0 {
		s["stream.listeners.tcp.1"] = Address(port.stream)
	}
	maps.Copy(s, o.Config)
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if err := unquoted(s[key]); err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s = %s\n", key, s[key])
	}
	return []byte(b.String()), nil
}

// definitions are the virtual host and the users, as RabbitMQ imports them.
func definitions(users []User) ([]byte, error) {
	type (
		host       struct{ Name string }
		definition struct {
			Name      string   `json:"name"`
			Hash      string   `json:"password_hash"`
			Algorithm string   `json:"hashing_algorithm"`
			Tags      []string `json:"tags"`
		}
		permission struct {
			User      string `json:"user"`
			VHost     string `json:"vhost"`
			Configure string `json:"configure"`
			Write     string `json:"write"`
			Read      string `json:"read"`
		}
	)
	var d struct {
		VHosts []struct {
			Name string `json:"name"`
		} `json:"vhosts"`
		Users       []definition `json:"users"`
		Permissions []permission `json:"permissions"`
	}
	d.VHosts = append(d.VHosts, struct {
		Name string `json:"name"`
	}{vhost})
	for _, u := range users {
		if u.Name == "" || u.Password == "" {
			return nil, fmt.Errorf("a broker's user needs a name and a password: %q has not both", u.Name)
		}
		d.Users = append(d.Users, definition{
			Name: u.Name, Hash: passwordHash(u.Password), Algorithm: "rabbit_password_hashing_sha256", Tags: append([]string{}, u.Tags...),
		})
		if u.Configure+u.Write+u.Read != "" {
			d.Permissions = append(d.Permissions, permission{User: u.Name, VHost: vhost, Configure: u.Configure, Write: u.Write, Read: u.Read})
		}
	}
	return json.Marshal(d)
}

// passwordHash is RabbitMQ's: a salt of four bytes, then SHA-256 of salt and password.
func passwordHash(password string) string {
	var salt [4]byte
	_, _ = rand.Read(salt[:]) // it never fails
	sum := sha256.Sum256(append(salt[:], password...))
	return base64.StdEncoding.EncodeToString(append(salt[:], sum[:]...))
}
