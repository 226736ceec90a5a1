package config

import "strings"

// Exposure is a listener that other machines can reach, and what is missing to know who calls.
type Exposure struct {
	Key, Address string
	// Missing are keys, each with why.
	Missing []string
}

// Exposed returns the listeners that other machines can reach without being asked who they are.
func (c *Config) Exposed() (all []Exposure) {
	for _, l := range c.listeners() {
		if l.addr == "" || loopback(l.addr) {
			continue
		}
		if missing := c.missing(l.key); len(missing) > 0 {
			all = append(all, Exposure{l.key, l.addr, missing})
		}
	}
	return all
}

// missing says what a listener needs before others may reach it.
func (c *Config) missing(listener string) (keys []string) {
	need := func(value, key, why string) {
		if value == "" {
			keys = append(keys, key+" ("+why+")")
		}
	}
	switch listener {
	case "cluster.listen":
		need(c.ClusterKeysFile, "cluster.keys_file", "gossip is not encrypted, and anybody can join")
	case "debug.listen":
		need("", "127.0.0.1 in debug.listen", "pprof asks nobody")
	default:
		need(c.TLS.Cert, "tls.cert_file and tls.key_file", "what is said can be read on its way")
		need(c.TokensFile, "auth.tokens_file", "nobody is asked who calls")
	}
	return keys
}

// validateAccess checks what is asked of callers.
func (c *Config) validateAccess(fault func(key, reason string)) {
	if !c.Insecure {
		for _, e := range c.Exposed() {
			fault(e.Key, e.Address+" can be reached from other machines without "+strings.Join(e.Missing, " and without ")+
				": set that (footfall certs, footfall token and footfall gossipkey make what is in the files), or listen on 127.0.0.1, or set insecure to true")
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		fault("tls.cert_file", "needs tls.key_file, and that needs it")
	}
	if c.TLS.CA != "" && c.TLS.Cert == "" {
		fault("tls.ca_file", "tells which nodes are of the trust domain, and is of no use without tls.cert_file and tls.key_file: their connections would not be encrypted")
	}
	if !c.Clustered() {
		return
	}
	switch {
	case c.TLS.Cert != "" && c.TLS.CA == "":
		fault("tls.cert_file", "needs tls.ca_file in a cluster: the nodes call each other, and know each other by certificates of it")
	case c.TokensFile != "" && c.TLS.CA == "":
		fault("auth.tokens_file", "needs tls.cert_file, tls.key_file and tls.ca_file in a cluster: nodes have no tokens, they know each other by certificates")
	}
}
