package check

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
)

// compose loads the compose file as compose does, with an empty environment.
func compose(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(top(t), "deploy/compose.yaml")}, cli.WithName("footfall"))
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	return project
}

func TestCompose(t *testing.T) {
	project := compose(t)
	nodes := 0
	pinned := regexp.MustCompile(`^[a-z/]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?$`)
	for name, s := range project.Services {
		t.Run(name, func(t *testing.T) {
			require.NotNil(t, s.HealthCheck, "what others wait for says when it is there")
			for _, p := range s.Ports {
				require.Equal(t, "127.0.0.1", p.HostIP, "nothing of it is for other machines")
			}
			// Every file that is mounted is there.
			for _, v := range s.Volumes {
				if v.Type == types.VolumeTypeBind {
					_, err := os.Stat(v.Source)
					require.NoError(t, err)
					require.True(t, v.ReadOnly, v.Source)
				}
			}
			for other, d := range s.DependsOn {
				require.Contains(t, project.Services, other)
				require.Equal(t, types.ServiceConditionHealthy, d.Condition)
			}
			if s.Build == nil {
				require.Regexp(t, pinned, s.Image)
				return
			}
			nodes++
			_, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile))
			require.NoError(t, err)
			require.True(t, s.ReadOnly)
			require.Equal(t, []string{"ALL"}, s.CapDrop)
			require.Contains(t, s.SecurityOpt, "no-new-privileges:true")
			require.Equal(t, name, *s.Environment["FOOTFALL_NODE_NAME"])
			require.Greater(t, s.StopGracePeriod.String(), "30s")
			var written []string
			for _, tmp := range s.Tmpfs {
				path, _, _ := strings.Cut(tmp, ":")
				written = append(written, path)
			}
			require.ElementsMatch(t, []string{"/tmp", "/var/lib/footfall"}, written)
		})
	}
	require.Equal(t, 3, nodes)
	for _, name := range []string{"rabbitmq", "postgres", "prometheus", "grafana"} {
		require.Contains(t, project.Services, name)
	}
}
