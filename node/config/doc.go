// Package config reads what a node is told: defaults, then one YAML file, then the
// environment, then flags, each over the one before. [Load] answers a [Config] that is
// valid as a whole, or [Faults] with everything that is wrong with it, each with its key
// and where it was written.
//
// Every key stands once, in the table of keys.go. From it come the names in the file
// ("http.listen"), in the environment (FOOTFALL_HTTP_LISTEN) and on the command line
// (--http-listen), their order in the help, and what [Config.WriteYAML] prints.
package config
