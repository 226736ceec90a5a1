package docs_test

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"footfall/behavior"
	"footfall/inference"
	"footfall/messages/footfallv1"
	"footfall/node/config"
)

func TestConfigurationTable(t *testing.T) {
	table := section(t, read(t, "operations.md"), "## Configuration")
	var keys []string
	for _, k := range config.Keys() {
		keys = append(keys, k.Name)
	}
	require.Equal(t, keys, firstColumn(table))

	// The defaults are those that a node prints.
	var out strings.Builder
	require.NoError(t, config.Default().WriteYAML(&out))
	var printed yaml.Node
	require.NoError(t, yaml.Unmarshal([]byte(out.String()), &printed))
	defaults := map[string]string{}
	flatten(printed.Content[0], "", defaults)
	defaults["node.name"] = "host name"
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); strings.HasPrefix(line, "| `") {
			key := strings.Trim(cells[1], " `")
			require.Equal(t, defaults[key], strings.Trim(cells[2], " `"), key)
		}
	}
}

// flatten keeps the scalars of a mapping by their dotted keys.
func flatten(node *yaml.Node, path string, into map[string]string) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := path+node.Content[i].Value, node.Content[i+1]
		if value.Kind == yaml.MappingNode {
			flatten(value, key+".", into)
			continue
		}
		into[key] = value.Value
	}
}

func TestMetricsTable(t *testing.T) {
	// What begins other names ends with an underscore: rabbitmq puts it before those of its calls.
	literal := regexp.MustCompile(`"(footfall_[a-z0-9_]*[a-z0-9])"`)
	part := regexp.MustCompile(`\b(?:counter|gauge)\("([a-z0-9_]+)",`)
	var inCode []string
	for _, file := range []string{"metrics.go", "bridge_metrics.go"} {
		text := read(t, filepath.Join(root, "rabbitmq", file))
		prefix := regexp.MustCompile(`"(footfall_[a-z0-9_]+_)" \+`).FindStringSubmatch(text)[1]
		for _, m := range part.FindAllStringSubmatch(text, -1) {
			inCode = append(inCode, prefix+m[1])
		}
	}
	for _, room := range []string{"actors", "cluster", "inference", "node", "rabbitmq", "store"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, room), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				for _, m := range literal.FindAllStringSubmatch(read(t, path), -1) {
					inCode = append(inCode, m[1])
				}
			}
			return err
		}))
	}
	inTable := firstColumn(section(t, read(t, "operations.md"), "## Metrics"))
	for i, m := range inTable {
		inTable[i], _, _ = strings.Cut(m, "{")
	}
	slices.Sort(inCode) // a node on its own tells of its members, too
	require.ElementsMatch(t, slices.Compact(inCode), inTable)
}

func TestCallsTable(t *testing.T) {
	text := read(t, "api.md")
	calls, _, _ := strings.Cut(text, "\n## ")
	t.Chdir(t.TempDir())
	n := startNode(t, "shards: 1\nnode: {name: docs}\n")
	status, body := n.get(t, "/openapi.json")
	require.Equal(t, http.StatusOK, status)
	var doc struct{ Paths map[string]map[string]any }
	require.NoError(t, json.Unmarshal([]byte(body), &doc))
	var served []string
	for path, methods := range doc.Paths {
		for method := range methods {
			served = append(served, strings.ToUpper(method)+" "+path)
		}
	}
	require.ElementsMatch(t, served, firstColumn(calls))
	for _, page := range []string{"/healthz", "/readyz", "/metrics", "/openapi.json", "/"} {
		require.Contains(t, calls, "`"+page+"`")
		status, _ := n.get(t, page)
		require.Equal(t, http.StatusOK, status, page)
	}
	for _, file := range []protoreflect.FileDescriptor{
		footfallv1.File_footfall_v1_ingest_proto, footfallv1.File_footfall_v1_query_proto, footfallv1.File_footfall_v1_admin_proto,
	} {
		service := file.Services().Get(0)
		for i := range service.Methods().Len() {
			require.Contains(t, calls, "`"+string(service.Name())+"/"+string(service.Methods().Get(i).Name())+"`")
		}
	}
}

func TestKindsTable(t *testing.T) {
	fields := (*footfallv1.Event)(nil).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	var kinds []string
	for i := range fields.Len() {
		kinds = append(kinds, string(fields.Get(i).Name()))
	}
	require.Equal(t, kinds, firstColumn(section(t, read(t, "guide.md"), "### Kinds of events")))
}

func TestFeaturesTable(t *testing.T) {
	fed := section(t, read(t, "models.md"), "## What models are fed")
	require.Equal(t, slices.Concat(behavior.FeatureNames[:], behavior.SequenceNames[:]), firstColumn(fed))
}

// Every figure of the evaluation is one of the first version's contract.
func TestEvaluationTable(t *testing.T) {
	number := regexp.MustCompile(`\.\d{3}`)
	models := 0
	for line := range strings.Lines(section(t, read(t, "models.md"), "## How good they are")) {
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		models++
		c, err := inference.ReadContract(filepath.Join(root, "models", strings.Trim(cells[1], " `"), "1"))
		require.NoError(t, err)
		var have []string
		for _, v := range c.Evaluation {
			have = append(have, strings.TrimPrefix(strconv.FormatFloat(v, 'f', 3, 64), "0"))
		}
		require.Subset(t, have, number.FindAllString(line, -1), c.Name)
	}
	require.Equal(t, 3, models)
}
