package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

const (
	// DefaultFile is read where it exists and no other is named.
	DefaultFile = "footfall.yaml"
	envPrefix   = "FOOTFALL_"
	envFile     = envPrefix + "CONFIG"
)

// Sources is where a configuration is read from.
type Sources struct {
	// File is the YAML file; empty means FOOTFALL_CONFIG, else DefaultFile where there is one.
	File string
	// Environ is the environment, as os.Environ gives it.
	Environ []string
	// Flags are parsed; those that were given count. May be nil.
	Flags *pflag.FlagSet
}

// AddFlags adds a flag for each key. Dots and underscores in a flag's name are as good as
// hyphens.
func AddFlags(flags *pflag.FlagSet) {
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(flagName(name))
	})
	flags.SortFlags = false
	d := Default()
	for _, k := range keys {
		flags.Var(&flagValue{text: k.value(d).String()}, k.Flag(), k.Usage)
		if _, ok := k.value(d).(*boolValue); ok {
			flags.Lookup(k.Flag()).NoOptDefVal = "true"
		}
	}
}

func flagName(key string) string { return strings.NewReplacer(".", "-", "_", "-").Replace(key) }

// flagValue keeps what was given, so that its faults are reported with all others.
type flagValue struct{ text string }

func (v *flagValue) Set(s string) error { v.text = s; return nil }
func (v *flagValue) String() string     { return v.text }
func (*flagValue) Type() string         { return "value" }

// Load reads a configuration. The error is Faults, or says why the file cannot be read.
func Load(from Sources) (*Config, error) {
	c := Default()
	l := loader{config: c}
	env := environ(from.Environ)

	file, named := from.File, from.File != ""
	if !named {
		if file, named = env[envFile]; !named || file == "" {
			file, named = DefaultFile, false
		}
	}
	switch body, err := os.ReadFile(file); {
	case err == nil:
		l.file(file, body)
	case named || !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("configuration: %w", err)
	}
	for _, k := range keys {
		if text, ok := env[k.Env()]; ok {
			l.set(k, text, k.Env())
		}
	}
	c.Unknown = unknown(env)
	if from.Flags != nil {
		for _, k := range keys {
			if f := from.Flags.Lookup(k.Flag()); f != nil && f.Changed {
				l.set(k, f.Value.String(), "--"+k.Flag())
			}
		}
	}

	// A key that could not be read keeps its default; what does not fit with that would mislead.
	faulty := map[string]bool{}
	for _, f := range l.faults {
		faulty[f.Key] = true
	}
	if err := c.Validate(); err != nil {
		var more Faults
		errors.As(err, &more)
		for _, f := range more {
			if !faulty[f.Key] {
				l.faults = append(l.faults, f)
			}
		}
	}
	if len(l.faults) > 0 {
		return nil, l.faults
	}
	return c, nil
}

func environ(list []string) map[string]string {
	env := map[string]string{}
	for _, kv := range list {
		if name, text, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, envPrefix) {
			env[name] = text
		}
	}
	return env
}

// unknown returns the variables that stand below a section of ours but name no key: they
// are rather typing errors than another program's.
func unknown(env map[string]string) []string {
	sections, known := map[string]bool{"WAREHOUSE": true}, map[string]bool{}
	for _, k := range keys {
		known[k.Env()] = true
		if section, _, ok := strings.Cut(k.Name, "."); ok {
			sections[strings.ToUpper(section)] = true
		}
	}
	var names []string
	for name := range env {
		section, _, ok := strings.Cut(strings.TrimPrefix(name, envPrefix), "_")
		if ok && sections[section] && !known[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

type loader struct {
	config *Config
	faults Faults
}

func (l *loader) fault(key, source, format string, args ...any) {
	l.faults = append(l.faults, Fault{Key: key, Source: source, Reason: fmt.Sprintf(format, args...)})
}

func (l *loader) set(k Key, text, source string) {
	if err := k.value(l.config).Set(text); err != nil {
		l.fault(k.Name, source, "%s", err)
		return
	}
	l.config.sources[k.Name] = source
}

func (l *loader) file(name string, body []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(body))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			l.fault(name, "", "is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		return
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		l.fault(name, "", "must hold one YAML document")
		return
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return
	}
	if root.Kind != yaml.MappingNode {
		l.fault(name, "", "must hold keys like http.listen, as a mapping")
		return
	}
	l.mapping(name, "", root, map[string]int{})
}

// mapping sets the keys below path. Both forms are good: nested, and with dots.
func (l *loader) mapping(file, path string, node *yaml.Node, seen map[string]int) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, n := node.Content[i], node.Content[i+1]
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		key := path + name.Value
		source := fmt.Sprintf("%s:%d", file, name.Line)
		k, known := keyByName[key]
		switch {
		case n.Kind == yaml.MappingNode && !known && isSection(key):
			l.mapping(file, key+".", n, seen)
			continue
		case !known && isSection(key) && n.Tag == "!!null":
			continue // a section without keys
		case !known:
			l.fault(key, source, "no such key%s", didYouMean(key))
			continue
		case seen[key] > 0:
			l.fault(key, source, "stands in line %d already", seen[key])
			continue
		}
		seen[key] = name.Line
		text, ok := scalar(n)
		if !ok {
			l.fault(key, source, "must be one value, or a list of values")
			continue
		}
		l.set(k, text, source)
	}
}

// scalar returns a node's value as it would be written in the environment.
func scalar(n *yaml.Node) (string, bool) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "", true
	case n.Kind == yaml.ScalarNode:
		return n.Value, true
	case n.Kind == yaml.SequenceNode:
		items := make([]string, len(n.Content))
		for i, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", false
			}
			items[i] = item.Value
		}
		return strings.Join(items, ","), true
	default:
		return "", false
	}
}

func isSection(path string) bool {
	return slices.ContainsFunc(keys, func(k Key) bool { return strings.HasPrefix(k.Name, path+".") })
}

// didYouMean names the key that differs only in its section or in how words are joined.
func didYouMean(key string) string {
	fold := strings.NewReplacer(".", "", "_", "", "-", "").Replace
	last := key[strings.LastIndexByte(key, '.')+1:]
	for _, same := range []func(Key) bool{
		func(k Key) bool { return strings.EqualFold(fold(k.Name), fold(key)) },
		func(k Key) bool { return len(last) > 3 && strings.HasSuffix(k.Name, "."+last) },
	} {
		if i := slices.IndexFunc(keys, same); i >= 0 {
			return ": did you mean " + keys[i].Name + "?"
		}
	}
	return ""
}

// WriteYAML writes the configuration as a file that would give it again, but for passwords,
// which are not shown. Beside each key stands what it means and where its value came from.
func (c *Config) WriteYAML(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	sections := map[string]*yaml.Node{"": root}
	for _, k := range keys {
		parent, path := root, ""
		parts := strings.Split(k.Name, ".")
		for _, part := range parts[:len(parts)-1] {
			path += part + "."
			if sections[path] == nil {
				sections[path] = &yaml.Node{Kind: yaml.MappingNode}
				parent.Content = append(parent.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: part}, sections[path])
			}
			parent = sections[path]
		}
		comment := k.Usage
		if source := c.sources[k.Name]; source != "" {
			comment += " (" + source + ")"
		}
		v := &yaml.Node{Kind: yaml.ScalarNode, Value: k.value(c).String(), LineComment: comment}
		if v.Value == "" {
			v.Style = yaml.DoubleQuotedStyle
		}
		parent.Content = append(parent.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: parts[len(parts)-1]}, v)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return err
	}
	return enc.Close()
}
