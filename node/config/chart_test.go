package config

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// What the Helm chart renders, in its golden files, is what a node takes: no key is unknown, and everything that a pod's
// environment says fits with the file.
func TestChart(t *testing.T) {
	files, err := filepath.Glob("../../deploy/check/testdata/rendered/*.yaml")
	require.NoError(t, err)
	require.Len(t, files, 6)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			var (
				body string
				pods [][]string
			)
			for dec := yaml.NewDecoder(bytes.NewReader(b)); ; {
				var o struct {
					Kind string
					Data map[string]string
					Spec struct {
						Template struct {
							Spec struct {
								Containers []struct {
									Env []struct {
										Name, Value string
									}
								}
							}
						}
					}
				}
				err := dec.Decode(&o)
				if errors.Is(err, io.EOF) {
					break
				}
				if errors.As(err, new(*yaml.TypeError)) {
					continue // of another kind, whose spec is another
				}
				require.NoError(t, err)
				if o.Kind == "ConfigMap" && o.Data["footfall.yaml"] != "" {
					body = o.Data["footfall.yaml"]
				}
				if o.Kind != "StatefulSet" {
					continue
				}
				env := []string{}
				for _, e := range o.Spec.Template.Spec.Containers[0].Env {
					value := strings.NewReplacer("$(POD_IP)", "10.0.0.7", "$(FOOTFALL_NODE_NAME)", "shop-footfall-0").Replace(e.Value)
					switch e.Name {
					case "FOOTFALL_NODE_NAME":
						value = "shop-footfall-0"
					case "FOOTFALL_LOG_URL":
						value = "amqps://u:p@rabbitmq:5671/"
					case "FOOTFALL_STORE_URL":
						value = "postgres://u:p@postgres:5432/footfall"
					}
					env = append(env, e.Name+"="+value)
				}
				pods = append(pods, env)
			}
			require.NotEmpty(t, body)
			require.NotEmpty(t, pods)
			path := filepath.Join(t.TempDir(), "footfall.yaml")
			require.NoError(t, os.WriteFile(path, []byte(body), 0o600))
			for _, env := range pods {
				c, err := Load(Sources{File: path, Environ: env})
				require.NoError(t, err)
				require.Empty(t, c.Unknown)
				require.True(t, c.Clustered())
			}
		})
	}
}
