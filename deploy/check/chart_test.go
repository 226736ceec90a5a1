package check

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	"github.com/yannh/kubeconform/pkg/validator"
	"helm.sh/helm/v4/pkg/chart/common"
	commonutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write golden files anew")

// Helm says of each link in a chart that it has followed it.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// valueSets are what the chart is rendered with.
var valueSets = []string{"minimal", "production", "gpu", "keda", "hpa", "insecure-dev"}

// kubernetes is the version that is rendered for.
const kubernetes = "v1.34.0"

func chartDir(t *testing.T) string { return filepath.Join(top(t), "deploy/helm/footfall") }

func values(t *testing.T, set string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/values", set+".yaml"))
	require.NoError(t, err)
	v := map[string]any{}
	require.NoError(t, yaml.UnmarshalStrict(b, &v))
	return v
}

// render does what helm template does: values are held against the schema, and the templates are executed.
func render(t *testing.T, v map[string]any) (files map[string]string, err error) {
	t.Helper()
	return renderAs(t, "shop", v)
}

func renderAs(t *testing.T, name string, v map[string]any) (files map[string]string, err error) {
	t.Helper()
	chart, err := loader.LoadDir(chartDir(t))
	require.NoError(t, err)
	caps := common.DefaultCapabilities.Copy()
	caps.KubeVersion = common.KubeVersion{Version: kubernetes, Major: "1", Minor: "34"}
	release := common.ReleaseOptions{Name: name, Namespace: "crm", Revision: 1, IsInstall: true}
	all, err := commonutil.ToRenderValuesWithSchemaValidation(chart, v, release, caps, false)
	if err != nil {
		return nil, err
	}
	files, err = engine.Render(chart, all)
	maps.DeleteFunc(files, func(name, body string) bool { return strings.HasSuffix(name, ".tpl") || strings.TrimSpace(body) == "" })
	return files, err
}

// manifests joins what was rendered, but for the notes.
func manifests(files map[string]string) string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(name, "NOTES.txt") {
			out.WriteString("---\n# Source: " + name + "\n" + strings.TrimSpace(files[name]) + "\n")
		}
	}
	return out.String()
}

// documents are the objects in what was rendered.
func documents(t *testing.T, text string) (docs []string) {
	t.Helper()
	r := utilyaml.NewDocumentDecoder(io.NopCloser(strings.NewReader(text)))
	defer r.Close()
	buf := make([]byte, 4<<20)
	for {
		n, err := r.Read(buf)
		if errors.Is(err, io.EOF) {
			return docs
		}
		require.NoError(t, err)
		var some any
		require.NoError(t, yaml.Unmarshal(buf[:n], &some))
		if some != nil {
			docs = append(docs, string(buf[:n]))
		}
	}
}

func TestChartGolden(t *testing.T) {
	for _, set := range valueSets {
		t.Run(set, func(t *testing.T) {
			files, err := render(t, values(t, set))
			require.NoError(t, err)
			text := manifests(files)
			// Dashboards and rules are checked where they are made, and come and go there.
			text = shorten(text)
			golden := filepath.Join("testdata/rendered", set+".yaml")
			if *update {
				require.NoError(t, os.MkdirAll("testdata/rendered", 0o755))
				require.NoError(t, os.WriteFile(golden, []byte(text), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), text, "if this is right, write it anew: go test -run TestChartGolden -update")
		})
	}
}

// shorten leaves out what is copied from elsewhere.
func shorten(text string) string {
	var out []string
	skip := false
	for line := range strings.Lines(withoutDashboards(text)) {
		if skip && (strings.HasPrefix(line, "    ") || strings.TrimSpace(line) == "") {
			continue
		}
		skip = false
		if line == "  groups:\n" {
			skip = true
			line = "  groups: # of deploy/prometheus/rules\n"
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}

func withoutDashboards(text string) string {
	docs := strings.SplitAfter(text, "\n---\n")
	return strings.Join(slices.DeleteFunc(docs, func(doc string) bool { return strings.Contains(doc, "\n    grafana_folder: ") }), "")
}

// Each dashboard is a ConfigMap that Grafana's sidecar finds, and is whole in it.
func TestChartDashboards(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(top(t), "deploy/grafana/dashboards/*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	have := map[string]string{}
	for _, m := range decode[core.ConfigMap](t, "production", "ConfigMap") {
		if m.Labels["grafana_dashboard"] == "1" {
			require.Len(t, m.Data, 1)
			maps.Copy(have, m.Data)
		}
	}
	require.Len(t, have, len(files))
	for _, file := range files {
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.JSONEq(t, string(want), have[filepath.Base(file)])
	}
}

func TestChartLint(t *testing.T) {
	for _, set := range valueSets {
		t.Run(set, func(t *testing.T) {
			version := common.KubeVersion{Version: kubernetes, Major: "1", Minor: "34"}
			result := lint.RunAll(chartDir(t), values(t, set), "crm", lint.WithKubeVersion(&version))
			for _, m := range result.Messages {
				// An icon is for catalogues.
				if !strings.Contains(m.Err.Error(), "icon is recommended") {
					require.Fail(t, "lint", "%s", m)
				}
			}
		})
	}
}

// typed are Go's types of what the chart makes; nil stands for those whose schema alone is looked at.
var typed = map[string]func() any{
	"ConfigMap":               func() any { return &core.ConfigMap{} },
	"Service":                 func() any { return &core.Service{} },
	"ServiceAccount":          func() any { return &core.ServiceAccount{} },
	"StatefulSet":             func() any { return &apps.StatefulSet{} },
	"PodDisruptionBudget":     func() any { return &policy.PodDisruptionBudget{} },
	"NetworkPolicy":           func() any { return &networking.NetworkPolicy{} },
	"HorizontalPodAutoscaler": func() any { return &autoscaling.HorizontalPodAutoscaler{} },
	"ServiceMonitor":          func() any { return &monitoring.ServiceMonitor{} },
	"PrometheusRule":          func() any { return &monitoring.PrometheusRule{} },
	"ScaledObject":            nil,
}

// Every object decodes into its type without a field that this does not have, and follows its schema.
func TestChartObjects(t *testing.T) {
	schemas, err := validator.New([]string{"schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json"}, validator.Opts{Strict: true})
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, set := range valueSets {
		files, err := render(t, values(t, set))
		require.NoError(t, err)
		for _, doc := range documents(t, manifests(files)) {
			var meta struct {
				Kind     string `json:"kind"`
				Metadata struct {
					Name   string            `json:"name"`
					Labels map[string]string `json:"labels"`
				} `json:"metadata"`
			}
			require.NoError(t, yaml.Unmarshal([]byte(doc), &meta))
			at := set + ": " + meta.Kind + " " + meta.Metadata.Name
			require.Contains(t, typed, meta.Kind, at)
			seen[meta.Kind] = true
			if into := typed[meta.Kind]; into != nil {
				require.NoError(t, yaml.UnmarshalStrict([]byte(doc), into()), at)
			}
			if set == "hpa" || set == "production" {
				refusesOther(t, schemas, at, doc)
			}
			if meta.Kind == "StatefulSet" {
				var s apps.StatefulSet
				require.NoError(t, yaml.Unmarshal([]byte(doc), &s))
				require.Equal(t, "shop", s.Spec.Template.Labels["app.kubernetes.io/instance"], at)
			}
			require.Equal(t, "shop", meta.Metadata.Labels["app.kubernetes.io/instance"], at)
			require.LessOrEqual(t, len(doc), 1<<20, at)
			for _, r := range schemas.Validate(at, io.NopCloser(strings.NewReader(doc))) {
				require.Equal(t, validator.Valid, r.Status, "%s: %v %v", at, r.Err, r.ValidationErrors)
			}
		}
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(typed)), slices.Collect(maps.Keys(seen)), "each kind is in some set")
}

// refusesOther proves that the schema of an object is one: what it does not know is a fault.
func refusesOther(t *testing.T, schemas validator.Validator, at, doc string) {
	t.Helper()
	var o map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(doc), &o))
	if spec, ok := o["spec"].(map[string]any); ok {
		spec["replicasOrSo"] = 3
	} else {
		o["replicasOrSo"] = 3
	}
	b, err := yaml.Marshal(o)
	require.NoError(t, err)
	for _, r := range schemas.Validate(at, io.NopCloser(strings.NewReader(string(b)))) {
		require.Equal(t, validator.Invalid, r.Status, at)
	}
}

// decode returns the objects of a type that a set renders to.
func decode[T any](t *testing.T, set, kind string) (all []T) {
	t.Helper()
	files, err := render(t, values(t, set))
	require.NoError(t, err)
	for _, doc := range documents(t, manifests(files)) {
		var o struct {
			Kind string `json:"kind"`
		}
		require.NoError(t, yaml.Unmarshal([]byte(doc), &o))
		if o.Kind == kind {
			var v T
			require.NoError(t, yaml.UnmarshalStrict([]byte(doc), &v))
			all = append(all, v)
		}
	}
	return all
}

// What pods must be, whatever else they are: restricted, gone in order, and apart.
func TestChartPods(t *testing.T) {
	for _, set := range valueSets {
		for _, s := range decode[apps.StatefulSet](t, set, "StatefulSet") {
			at := set + ": " + s.Name
			pod := s.Spec.Template.Spec
			c := pod.Containers[0]
			require.True(t, *pod.SecurityContext.RunAsNonRoot, at)
			require.Equal(t, core.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type, at)
			require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem, at)
			require.False(t, *c.SecurityContext.AllowPrivilegeEscalation, at)
			require.Equal(t, []core.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop, at)
			require.False(t, *pod.AutomountServiceAccountToken, at)
			require.Equal(t, apps.ParallelPodManagement, s.Spec.PodManagementPolicy, at)

			// Who waits, hands over, and still has time to write it down.
			v := values(t, set)
			drain := int64(30)
			if shutdown, ok := v["shutdown"].(map[string]any); ok {
				drain = int64(shutdown["drainSeconds"].(float64))
			}
			require.Greater(t, *pod.TerminationGracePeriodSeconds, drain+c.Lifecycle.PreStop.Sleep.Seconds, at)
			require.Equal(t, "/readyz", c.ReadinessProbe.HTTPGet.Path, at)
			require.EqualValues(t, 1, c.ReadinessProbe.FailureThreshold, at)
			require.Equal(t, "/healthz", c.LivenessProbe.HTTPGet.Path, "a broker that is away is no reason to start anew: %s", at)
			require.NotNil(t, c.StartupProbe, at)
			require.NotEmpty(t, s.Spec.Template.Annotations["checksum/config"], at)

			// No secret stands in a pod's description.
			for _, e := range c.Env {
				if strings.HasSuffix(e.Name, "_URL") {
					require.Empty(t, e.Value, at)
					require.NotNil(t, e.ValueFrom.SecretKeyRef, at)
				}
			}
			mounted := map[string]bool{}
			for _, m := range c.VolumeMounts {
				mounted[m.Name] = true
				require.True(t, m.ReadOnly || m.MountPath == "/tmp" || m.MountPath == "/var/lib/footfall", at)
			}
			for _, v := range pod.Volumes {
				require.True(t, mounted[v.Name], "%s: %s is not mounted", at, v.Name)
			}
		}
	}
}

func TestChartGPU(t *testing.T) {
	sets := decode[apps.StatefulSet](t, "gpu", "StatefulSet")
	require.Len(t, sets, 2)
	for _, s := range sets {
		gpus := s.Spec.Template.Spec.Containers[0].Resources.Limits["nvidia.com/gpu"]
		roles := ""
		for _, e := range s.Spec.Template.Spec.Containers[0].Env {
			if e.Name == "FOOTFALL_NODE_ROLES" {
				roles = e.Value
			}
		}
		if strings.HasSuffix(s.Name, "-inference") {
			require.EqualValues(t, 1, gpus.Value())
			require.Equal(t, "inference", roles)
			require.Equal(t, "nvidia.com/gpu", s.Spec.Template.Spec.Tolerations[0].Key)
		} else {
			require.Zero(t, gpus.Value())
			require.Equal(t, "shards", roles)
		}
	}
}

// Who scales says how many there are, and nobody else.
func TestChartAutoscaling(t *testing.T) {
	for _, set := range valueSets {
		scaled := len(decode[autoscaling.HorizontalPodAutoscaler](t, set, "HorizontalPodAutoscaler")) + len(decode[map[string]any](t, set, "ScaledObject"))
		s := decode[apps.StatefulSet](t, set, "StatefulSet")[0]
		if set == "hpa" || set == "keda" {
			require.Equal(t, 1, scaled, set)
			require.Nil(t, s.Spec.Replicas, set)
		} else {
			require.Zero(t, scaled, set)
			require.NotNil(t, s.Spec.Replicas, set)
		}
	}
}

// What the chart sets of a pod's environment is what extraEnv may not.
func TestChartEnvironment(t *testing.T) {
	for _, set := range valueSets {
		for _, s := range decode[apps.StatefulSet](t, set, "StatefulSet") {
			extra := []string{"TF_NUM_INTEROP_THREADS", "GOOGLE_APPLICATION_CREDENTIALS"}
			for _, e := range s.Spec.Template.Spec.Containers[0].Env {
				if slices.Contains(extra, e.Name) {
					continue
				}
				v := values(t, "minimal")
				v["nodes"] = map[string]any{"extraEnv": []any{map[string]any{"name": e.Name, "value": "x"}}}
				_, err := render(t, v)
				require.ErrorContains(t, err, e.Name)
			}
		}
	}
}

// Names stay names, however long that of the release is: of services (63 bytes, no dots, a letter first), and of StatefulSets,
// to whose name Kubernetes adds a hyphen and ten bytes in a label of 63.
func TestChartNames(t *testing.T) {
	for name, want := range map[string]string{
		"shop":                  "shop-footfall",
		"shop.crm":              "shop-crm-footfall",
		"footfall":              "footfall",
		strings.Repeat("a", 53): strings.Repeat("a", 42),
		"1shop":                 "",
	} {
		t.Run(name, func(t *testing.T) {
			v := values(t, "gpu")
			files, err := renderAs(t, name, v)
			if want == "" {
				require.ErrorContains(t, err, "fullnameOverride: services cannot be called 1shop-footfall")
				v["fullnameOverride"] = "shop"
				_, err = renderAs(t, name, v)
				require.NoError(t, err)
				return
			}
			require.NoError(t, err)
			seen := 0
			for _, doc := range documents(t, manifests(files)) {
				var o struct {
					Kind     string
					Metadata struct{ Name string }
				}
				require.NoError(t, yaml.Unmarshal([]byte(doc), &o))
				require.True(t, strings.HasPrefix(o.Metadata.Name, want), o.Metadata.Name)
				switch o.Kind {
				case "StatefulSet":
					seen++
					require.LessOrEqual(t, len(o.Metadata.Name), 52)
				case "Service":
					seen++
					require.Regexp(t, `^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`, o.Metadata.Name)
				}
			}
			require.Equal(t, 4, seen)
		})
	}
}

// A node may write as much as it keeps of models.
func TestChartScratch(t *testing.T) {
	for _, s := range decode[apps.StatefulSet](t, "minimal", "StatefulSet") {
		for _, v := range s.Spec.Template.Spec.Volumes {
			if v.Name == "data" {
				require.Greater(t, v.EmptyDir.SizeLimit.Value(), int64(4<<30), "models.cache_size is 4GiB")
				return
			}
		}
	}
	require.Fail(t, "no volume")
}

// A configuration that changes starts pods anew.
func TestChartChecksum(t *testing.T) {
	sum := func(v map[string]any) string {
		files, err := render(t, v)
		require.NoError(t, err)
		var s apps.StatefulSet
		require.NoError(t, yaml.UnmarshalStrict([]byte(files["footfall/templates/nodes.yaml"]), &s))
		return s.Spec.Template.Annotations["checksum/config"]
	}
	v := values(t, "minimal")
	before := sum(v)
	require.Equal(t, before, sum(values(t, "minimal")))
	v["config"] = map[string]any{"memory.budget": "3GiB"}
	require.NotEqual(t, before, sum(v))
}

// What cannot work is refused with the value's name.
func TestChartRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"no log":              {func(v map[string]any) { delete(v, "log") }, "log.secretName"},
		"no store":            {func(v map[string]any) { delete(v, "store") }, "store.secretName"},
		"half of security":    {func(v map[string]any) { delete(v, "auth") }, "auth.tokensSecretName"},
		"both":                {func(v map[string]any) { v["insecure"] = true }, "insecure"},
		"two certificates":    {func(v map[string]any) { v["tls"].(map[string]any)["secretName"] = "x" }, "tls.secretName"},
		"a typing error":      {func(v map[string]any) { v["replicas"] = 3 }, "replicas"},
		"a typing error deep": {func(v map[string]any) { v["nodes"] = map[string]any{"replica": 3} }, "replica"},
		"shards":              {func(v map[string]any) { v["cluster"] = map[string]any{"shards": 63} }, "shards"},
		"too few shards":      {func(v map[string]any) { v["cluster"] = map[string]any{"shards": 4} }, "cluster.shards"},
		"no shards role":      {func(v map[string]any) { v["nodes"] = map[string]any{"roles": []any{"inference"}} }, "roles"},
		"two pools score":     {func(v map[string]any) { v["inference"] = map[string]any{"enabled": true} }, "nodes.roles"},
		"keda without":        {func(v map[string]any) { v["autoscaling"] = map[string]any{"kind": "keda"} }, "prometheusAddress"},
		"both scale":          {func(v map[string]any) { v["autoscaling"] = map[string]any{"kind": "both"} }, "kind"},
		"most below least": {func(v map[string]any) {
			v["autoscaling"] = map[string]any{"kind": "hpa", "minReplicas": 5, "maxReplicas": 4}
		}, "maxReplicas"},
		"an object store behind the policy": {func(v map[string]any) { v["config"] = map[string]any{"models.url": "s3://models"} }, "networkPolicy.extraEgress"},
		"a section that is empty":           {func(v map[string]any) { v["nodes"] = nil }, "missing property 'nodes'"},
		"a limit that is empty":             {func(v map[string]any) { v["shutdown"] = map[string]any{"drainSeconds": nil} }, "missing property 'drainSeconds'"},
		"no quantity": {func(v map[string]any) {
			v["nodes"] = map[string]any{"resources": map[string]any{"limits": map[string]any{"memory": "lots"}}}
		}, "/nodes/resources/limits/memory"},
		"a label of ours": {func(v map[string]any) {
			v["nodes"] = map[string]any{"podLabels": map[string]any{"app.kubernetes.io/name": "x"}}
		}, "nodes.podLabels"},
		"an annotation of ours": {func(v map[string]any) {
			v["inference"] = map[string]any{"podAnnotations": map[string]any{"checksum/config": "x"}}
		}, "inference.podAnnotations"},
		"environment of ours": {func(v map[string]any) {
			v["nodes"] = map[string]any{"extraEnv": []any{map[string]any{"name": "FOOTFALL_LOG_URL", "value": "x"}}}
		}, "nodes.extraEnv: FOOTFALL_LOG_URL"},
		"a name with dots": {func(v map[string]any) { v["fullnameOverride"] = "shop.crm" }, "fullnameOverride"},
		"ours":             {func(v map[string]any) { v["config"] = map[string]any{"http.listen": "0.0.0.0:80"} }, "http.listen"},
		"no token to scrape": {func(v map[string]any) {
			v["monitoring"] = map[string]any{"serviceMonitor": map[string]any{"enabled": true}}
		}, "tokenSecretName"},
	} {
		t.Run(name, func(t *testing.T) {
			v := values(t, "minimal")
			c.change(v)
			_, err := render(t, v)
			require.ErrorContains(t, err, c.want)
		})
	}
}
