package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"footfall/actors"
	"footfall/behavior"
	"footfall/inference/tensorflow"
	"footfall/node"
)

// An outside client of the Open Inference Protocol asks a node for the models of the checkout, by
// HTTP and by gRPC, and gets what the models answer in this process.
func TestOutsideClientOfTheInferenceProtocol(t *testing.T) {
	python := os.Getenv("FOOTFALL_OIP_PYTHON")
	if python == "" {
		if os.Getenv("FOOTFALL_HEAVY") == "1" {
			t.Fatal("FOOTFALL_OIP_PYTHON names no Python with tritonclient: run make oip-client")
		}
		t.Skip("make oip-client sets the client up")
	}
	const rows = 70
	matrix := &actors.ScoreRequest{Rows: rows, Features: make([]float32, 10*rows), Sequences: make([]float32, 50*rows)}
	var asked struct {
		Features [][]float32       `json:"features"`
		Sequence [][][]float32     `json:"sequence"`
		Versions map[string]string `json:"versions"`
	}
	for r := range rows {
		f, s := matrix.Features[r*10:(r+1)*10], matrix.Sequences[r*50:(r+1)*50]
		for i := range f {
			f[i] = float32((r*7+i*3)%11) / 2
		}
		var days [][]float32
		for d := range 10 {
			day := s[d*5 : (d+1)*5]
			copy(day, []float32{float32((9 - d) * (1 + r%8)), float32(1 + r%8), float32(r%6) / 1.5, float32(1 + r%4), float32(r%5) / 10})
			days = append(days, day)
		}
		asked.Features, asked.Sequence = append(asked.Features, f), append(asked.Sequence, days)
	}

	models, err := filepath.Abs("../../models")
	require.NoError(t, err)
	cmd, addr, lines := process(t, "--node-roles=shards,inference", "--models-url=file:"+models)
	resp, err := http.Get("http://" + addr + "/v1/cluster") //nolint:noctx // it answers
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	var cluster struct {
		Members []struct {
			GRPCAddress string `json:"grpc_address"`
		}
	}
	require.NoError(t, json.Unmarshal(text, &cluster))

	want := map[string][]float32{}
	asked.Versions = map[string]string{}
	for _, m := range scored(t, models, matrix) {
		want[m.Model], asked.Versions[m.Model] = m.Values, m.Version
	}
	require.Len(t, want, 4)
	input, err := json.Marshal(asked)
	require.NoError(t, err)
	client := exec.CommandContext(t.Context(), python, "testdata/oip_client.py", addr, cluster.Members[0].GRPCAddress)
	var errs bytes.Buffer
	client.Stdin, client.Stderr = bytes.NewReader(input), &errs
	out, err := client.Output()
	require.NoError(t, err, errs.String())
	var have map[string]map[string][]float32
	require.NoError(t, json.Unmarshal(out, &have))
	require.Len(t, have, 4)
	for model, ways := range have {
		require.Len(t, ways, 3)
		for way, values := range ways {
			require.InDeltaSlice(t, want[model], values, 1e-6, "%s by %s", model, way)
		}
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	for range lines {
	}
	require.NoError(t, cmd.Wait())
}

// scored has the models of a directory score rows in this process.
func scored(t *testing.T, models string, r *actors.ScoreRequest) []actors.ModelScores {
	t.Helper()
	require.Len(t, r.Features, r.Rows*len(behavior.FeatureNames))
	runner, err := tensorflow.New(tensorflow.Options{})
	require.NoError(t, err)
	scorer, done, err := node.StartScorer(t.Context(), models, runner)
	require.NoError(t, err)
	replies := make(chan actors.ScoreReply, 1)
	r.Reply = func(answer actors.ScoreReply) { replies <- answer }
	require.True(t, scorer.Score(r))
	answer := <-replies
	require.NoError(t, answer.Err)
	require.NoError(t, done())
	return answer.Models
}
