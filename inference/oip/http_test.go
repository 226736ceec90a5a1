package oip

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"footfall/inference"
)

type reply struct {
	code   int
	header http.Header
	body   string
}

func (s *served) do(tb testing.TB, method, path string, body []byte, header ...string) reply {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), method, s.url+path, bytes.NewReader(body))
	require.NoError(tb, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(tb, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(tb, err)
	return reply{resp.StatusCode, resp.Header, string(text)}
}

func TestHTTPHealthAndMetadata(t *testing.T) {
	s := serve(t, someModels())
	for path, want := range map[string]string{
		"/v2":                               `{"name":"footfall","version":"v-test","extensions":["binary_tensor_data"]}`,
		"/v2/health/live":                   `{"live":true}`,
		"/v2/health/ready":                  `{"ready":true}`,
		"/v2/models/dense/ready":            `{"name":"dense","ready":true}`,
		"/v2/models/dense/versions/2/ready": `{"name":"dense","ready":true}`,
		"/v2/models/dense/versions/2":       `{"name":"dense","versions":["3","2"],"platform":"tensorflow_savedmodel","inputs":[{"name":"features","datatype":"FP32","shape":[-1,10]}],"outputs":[{"name":"p","datatype":"FP32","shape":[-1,1]}]}`,
		"/v2/models/lstm":                   `{"name":"lstm","versions":["1"],"platform":"tensorflow_savedmodel","inputs":[{"name":"sequence","datatype":"FP32","shape":[-1,10,5]}],"outputs":[{"name":"p","datatype":"FP32","shape":[-1,1]}]}`,
	} {
		r := s.do(t, http.MethodGet, path, nil)
		require.Equal(t, http.StatusOK, r.code, path)
		require.Equal(t, "application/json", r.header.Get("Content-Type"))
		require.JSONEq(t, want, r.body, path)
	}
	for path, want := range map[string]string{
		"/v2/models/gpt":                    `no model \"gpt\" serves: both, dense, groups, lstm do`,
		"/v2/models/gpt/ready":              `no model \"gpt\" serves: both, dense, groups, lstm do`,
		"/v2/models/dense/versions/9/ready": `version \"9\" of dense does not serve: 3, 2 does`,
		"/v2/models":                        "there is nothing at /v2/models",
		"/v2/models/dense/config":           "there is nothing at /v2/models/dense/config",
	} {
		r := s.do(t, http.MethodGet, path, nil)
		require.Equal(t, http.StatusNotFound, r.code, path)
		require.Contains(t, r.body, want)
	}
	wrong := s.do(t, http.MethodGet, "/v2/models/dense/infer", nil)
	require.Equal(t, http.StatusMethodNotAllowed, wrong.code)
	require.Equal(t, "POST", wrong.header.Get("Allow"))
	s.set(func() { s.loading = true })
	for _, path := range []string{"/v2/health/ready", "/v2/models/dense/ready"} {
		require.Equal(t, http.StatusBadRequest, s.do(t, http.MethodGet, path, nil).code)
	}
	require.Equal(t, http.StatusServiceUnavailable, s.do(t, http.MethodGet, "/v2/models/dense", nil).code)
	require.Equal(t, http.StatusOK, s.do(t, http.MethodGet, "/v2/health/live", nil).code)
}

// bytesOf is little-endian FP32, by other means than the code's.
func bytesOf(values ...float32) []byte {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, values); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Tensors come flat, nested or as bytes, and go as is asked for.
func TestHTTPInfer(t *testing.T) {
	s := serve(t, someModels())
	nine := strings.Repeat(",0", 9)
	flat := `{"id":"42","inputs":[{"name":"features","shape":[2,10],"datatype":"FP32","data":[50` + nine + `, 2.5e1` + nine + `]}]}`
	nested := `{"inputs":[{"name":"features","shape":[2,10],"datatype":"FP32","data": [ [50` + nine + `],[25` + nine + ` ] ] }],"outputs":[{"name":"p"}]}`
	for body, id := range map[string]string{flat: `"id":"42",`, nested: ""} {
		r := s.do(t, http.MethodPost, "/v2/models/dense/infer", []byte(body))
		require.Equal(t, http.StatusOK, r.code, r.body)
		require.JSONEq(t, `{"model_name":"dense","model_version":"3",`+id+`"outputs":[{"name":"p","datatype":"FP32","shape":[2,1],"data":[0.5,0.25]}]}`, r.body)
		require.Empty(t, r.header.Get(jsonLength))
	}
	groups := s.do(t, http.MethodPost, "/v2/models/groups/versions/1/infer", []byte(`{"inputs":[{"name":"features","shape":[1,10],"datatype":"FP32","data":[3`+nine+`]}]}`))
	require.JSONEq(t, `{"model_name":"groups","model_version":"1","outputs":[{"name":"p","datatype":"INT32","shape":[1,1],"data":[3]}]}`, groups.body)

	for _, out := range []string{`"parameters":{"binary_data_output":true}`, `"outputs":[{"name":"p","parameters":{"binary_data":true}}]`} {
		text := `{"inputs":[{"name":"sequence","shape":[2,10,5],"datatype":"FP32","parameters":{"binary_data_size":400}},
			{"name":"features","shape":[2,10],"datatype":"FP32","data":[1` + nine + `,2` + nine + `]}],` + out + `}`
		body := append([]byte(text), bytesOf(rows("", 7, 8).Sequences...)...)
		r := s.do(t, http.MethodPost, "/v2/models/both/infer", body, jsonLength, strconv.Itoa(len(text)))
		require.Equal(t, http.StatusOK, r.code, r.body)
		require.Equal(t, "application/octet-stream", r.header.Get("Content-Type"))
		n, err := strconv.Atoi(r.header.Get(jsonLength))
		require.NoError(t, err)
		require.JSONEq(t, `{"model_name":"both","model_version":"1","outputs":[{"name":"p","datatype":"FP32","shape":[2,1],"parameters":{"binary_data_size":8}}]}`, r.body[:n])
		require.Equal(t, bytesOf(.08, .10), []byte(r.body[n:]))
	}
}

func TestHTTPRefuses(t *testing.T) {
	s := serve(t, someModels())
	tensor := func(more string) string {
		return `{"inputs":[{"name":"features","shape":[1,10],"datatype":"FP32"` + more + `}]}`
	}
	ten := `"data":[0,0,0,0,0,0,0,0,0,0]`
	for name, test := range map[string]struct {
		body, length string
		want         string
	}{
		"nothing":             {"", "", "body: is empty"},
		"no JSON":             {"{", "", "body: is no JSON: unexpected end of JSON input, at byte 1"},
		"two values":          {tensor("") + "{}", "", "body: is no JSON"},
		"a list":              {"[]", "", "body: is not a request"},
		"kind":                {`{"inputs":[{"name":7}]}`, "", "inputs.name: must not be a number"},
		"no data":             {tensor(""), "", "inputs[0].data: is missing"},
		"data of null":        {tensor(`,"data":null`), "", "inputs[0].data: "},
		"few":                 {tensor(`,"data":[0, 0, 0, 0, 0, 0, 0, 0, 0]`), "", "inputs[0].data: has a list of 9 elements, where the shape asks for 10"},
		"very few":            {tensor(`,"data":[0]`), "", "inputs[0].data: has fewer than the 10 elements"},
		"many":                {tensor(`,"data":[0,0,0,0,0,0,0,0,0,0,0]`), "", "inputs[0].data: has a list of more than the 10 elements"},
		"ragged":              {tensor(`,"data":[[0,0,0,0,0],[0,0,0,0,0]]`), "", "inputs[0].data: has a list of 5 elements, where the shape asks for 10"},
		"too deep":            {tensor(`,"data":[[[0,0,0,0,0,0,0,0,0,0]]]`), "", "inputs[0].data: element 0 is no number"},
		"half nested":         {tensor(`,"data":[[0,0,0,0,0,0,0,0,0,0],0]`), "", "inputs[0].data: has a list of more than the 1 elements"},
		"text":                {tensor(`,"data":[0,0,0,"a",0,0,0,0,0,0]`), "", "inputs[0].data: element 3 is no number"},
		"beyond 32 bits":      {tensor(`,"data":[0,0,0,1e39,0,0,0,0,0,0]`), "", "inputs[0].data: element 3, 1e39, is no number of 32 bits"},
		"binary, no header":   {tensor(`,"parameters":{"binary_data_size":40}`), "", "binary_data_size: needs the header " + jsonLength},
		"binary too short":    {tensor(`,"parameters":{"binary_data_size":40}`) + "123", "0", "binary_data_size: is 40, and 3 bytes are left of the body"},
		"binary of less":      {tensor(`,"parameters":{"binary_data_size":3}`) + "123", "0", "inputs[0].data: has 3 bytes, where the shape asks for 10 elements of 4"},
		"binary and data":     {tensor(`,"parameters":{"binary_data_size":3},` + ten), "0", "inputs[0].data: stands beside binary_data_size"},
		"binary of no number": {tensor(`,"parameters":{"binary_data_size":"40"}`), "0", "binary_data_size: must be a number of bytes"},
		"binary below 0":      {tensor(`,"parameters":{"binary_data_size":-1}`), "0", "binary_data_size: must be a number of bytes"},
		"binary of parts":     {tensor(`,"parameters":{"binary_data_size":1.5}`), "0", "binary_data_size: must be a number of bytes"},
		"bytes of nobody":     {tensor(","+ten) + "1234", "0", "body: has 4 bytes behind the JSON that belong to no input"},
		"header of nonsense":  {tensor("," + ten), "x", jsonLength + `: is \"x\"`},
		"header beyond":       {tensor("," + ten), "99999", jsonLength + `: is \"99999\"`},
		"flag":                {`{"parameters":{"binary_data_output":1},"inputs":[]}`, "", "parameters.binary_data_output: must be true or false"},
		"flag of an output":   {`{"inputs":[],"outputs":[{"name":"p","parameters":{"binary_data":"yes"}}]}`, "", "outputs[0].parameters.binary_data: must be true or false"},
		"classification":      {`{"inputs":[],"outputs":[{"name":"p","parameters":{"classification":1}}]}`, "", "outputs[0].parameters.classification: is not supported"},
		"shared memory":       {tensor(`,"parameters":{"shared_memory_region":"a"}`), "", "inputs[0].parameters.shared_memory_region: is not supported"},
		"sequence":            {`{"parameters":{"sequence_id":1},"inputs":[]}`, "", "parameters.sequence_id: is not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			var header []string
			if test.length != "" {
				n := test.length
				if n == "0" { // the JSON's own
					n = strconv.Itoa(strings.LastIndex(test.body, "}") + 1)
				}
				header = []string{jsonLength, n}
			}
			r := s.do(t, http.MethodPost, "/v2/models/dense/infer", []byte(test.body), header...)
			require.Equal(t, http.StatusBadRequest, r.code, r.body)
			require.Contains(t, r.body, test.want)
			var p problem
			require.NoError(t, json.Unmarshal([]byte(r.body), &p))
			require.NotEmpty(t, p.Error)
		})
	}
	require.Empty(t, s.asked)

	large := s.do(t, http.MethodPost, "/v2/models/dense/infer", make([]byte, 4<<20+1))
	require.Equal(t, http.StatusRequestEntityTooLarge, large.code)
	unknown := s.do(t, http.MethodPost, "/v2/models/gpt/infer", []byte(tensor(","+ten)))
	require.Equal(t, http.StatusNotFound, unknown.code)
	s.set(func() { s.before = func(inference.Request) error { return inference.ErrBusy } })
	busy := s.do(t, http.MethodPost, "/v2/models/dense/infer", []byte(tensor(","+ten)))
	require.Equal(t, http.StatusTooManyRequests, busy.code)
	require.Equal(t, "1", busy.header.Get("Retry-After"))
}

func TestHTTPDeadline(t *testing.T) {
	m := someModels()
	s := serve(t, m)
	body := []byte(`{"inputs":[{"name":"features","shape":[1,10],"datatype":"FP32","data":[0,0,0,0,0,0,0,0,0,0]}]}`)
	for _, text := range []string{"m", "5", "5x", "-5m", "100000000000S"} {
		r := s.do(t, http.MethodPost, "/v2/models/dense/infer", body, timeoutHeader, text)
		require.Equal(t, http.StatusBadRequest, r.code, text)
	}
	for _, text := range []string{"99999999H", "10S"} {
		r := s.do(t, http.MethodPost, "/v2/models/dense/infer", body, timeoutHeader, text)
		require.Equal(t, http.StatusOK, r.code, text)
	}
	s.server.Backend = backend{m, func(ctx context.Context, _ inference.Request) (inference.Scores, error) {
		<-ctx.Done()
		return inference.Scores{}, ctx.Err()
	}}
	r := s.do(t, http.MethodPost, "/v2/models/dense/infer", body, timeoutHeader, "1m")
	require.Equal(t, http.StatusGatewayTimeout, r.code)
	require.JSONEq(t, `{"error":"not done within the deadline"}`, r.body)
}

// Numbers come out as they went in, however they are nested, and as encoding/json reads them.
func TestJSONNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, steps := rapid.IntRange(1, 4).Draw(t, "rows"), rapid.IntRange(1, 3).Draw(t, "steps")
		values := rapid.SliceOfN(rapid.Float32(), n*steps*2, n*steps*2).Draw(t, "values")
		values = slices.DeleteFunc(values, func(v float32) bool { return math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) })
		if len(values) != n*steps*2 {
			t.Skip("not finite")
		}
		text := toJSON(values)
		var plain []float32
		if err := json.Unmarshal(text, &plain); err != nil || !slices.Equal(plain, values) {
			t.Fatalf("%s is not %v: %v", text, values, err)
		}
		nested := make([][][]float32, n)
		for i := range nested {
			for j := range steps {
				at := (i*steps + j) * 2
				nested[i] = append(nested[i], values[at:at+2])
			}
		}
		deep, err := json.MarshalIndent(nested, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		shape := []int64{int64(n), int64(steps), 2}
		for _, data := range [][]byte{text, deep} {
			have, err := fromJSON(data, shape, len(values))
			if err != nil || !slices.Equal(have, values) {
				t.Fatalf("%s: %v, %v", data, have, err)
			}
		}
	})
}

// No list of JSON makes the reader panic, or read what encoding/json would not.
func FuzzFromJSON(f *testing.F) {
	for _, text := range []string{`[1,2,3,4]`, `[[1,2],[3,4]]`, `[ [1e3 ,-2],[3.5, 4] ]`, `[]`, `[[],[]]`, `[[1],[2,3,4]]`, `[true,null,"]",{"a":[1]}]`, `"[1,2]"`, `[[[1,2],[3,4]]]`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) {
			t.Skip()
		}
		have, err := fromJSON(data, []int64{2, 2}, 4)
		if err != nil {
			return
		}
		var flat []float32
		if json.Unmarshal(data, &flat) != nil {
			var nested [][]float32
			if err := json.Unmarshal(data, &nested); err != nil {
				t.Fatalf("%s was read as %v: %v", data, have, err)
			}
			flat = slices.Concat(nested...)
		}
		if !slices.Equal(have, flat) {
			t.Fatalf("%s was read as %v", data, have)
		}
	})
}

// No body makes the server panic, and none that is taken is taken for more rows than it has.
func FuzzFromHTTP(f *testing.F) {
	text := `{"inputs":[{"name":"features","shape":[1,10],"datatype":"FP32","parameters":{"binary_data_size":40}}]}`
	f.Add(append([]byte(text), make([]byte, 40)...), strconv.Itoa(len(text)))
	f.Add([]byte(`{"inputs":[{"name":"features","shape":[1,10],"datatype":"FP32","data":[0,0,0,0,0,0,0,0,0,0]}],"outputs":[{"name":"p"}]}`), "")
	f.Add([]byte(`{"id":"a","parameters":{"binary_data_output":true},"inputs":[{"name":"sequence","shape":[1,10,5]}]}`), "-1")
	contracts := someModels().serving
	f.Fuzz(func(t *testing.T, body []byte, length string) {
		q, _, err := fromHTTP(body, length)
		if err != nil {
			return
		}
		for _, c := range contracts {
			r, err := q.bind(c, maxRows)
			if err != nil {
				continue
			}
			if r.Rows < 1 || len(r.Features)%(10*r.Rows) != 0 || len(r.Sequences)%(50*r.Rows) != 0 || 4*(len(r.Features)+len(r.Sequences)) > 4*len(body) {
				t.Fatal(fmt.Sprint(r.Rows, len(r.Features), len(r.Sequences)))
			}
		}
	})
}
