package oip

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "footfall/messages/inferencev2"
)

// jsonLength is the header that says how much of a body is JSON; tensors' bytes follow it.
const jsonLength = "Inference-Header-Content-Length"

// Handler serves the protocol under /v2.
type Handler struct {
	Server *Server
	// Body reads the body of a request and bounds it; done gives its memory back.
	Body func(w http.ResponseWriter, r *http.Request) (body []byte, done func(), err error)
	// Log gets what failed by no fault of the client.
	Log *slog.Logger
}

// Mux returns the routes.
func (h *Handler) Mux() http.Handler {
	mux := http.NewServeMux()
	route := func(method, pattern, call string, f func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(method+" "+pattern, func(w http.ResponseWriter, r *http.Request) {
			_, err := observed(h.Server, call, transportHTTP, func() (struct{}, error) { return struct{}{}, f(w, r) })
			if err != nil {
				h.fail(w, r, err)
			}
		})
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", method)
			writeJSON(w, http.StatusMethodNotAllowed, problem{r.Method + " is not what " + r.URL.Path + " takes"})
		})
	}
	route("GET", "/v2/health/live", callLive, func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, map[string]bool{"live": true})
		return nil
	})
	route("GET", "/v2/health/ready", callReady, func(w http.ResponseWriter, _ *http.Request) error {
		ready := h.Server.ready()
		writeJSON(w, readyCode(ready), map[string]bool{"ready": ready})
		return nil
	})
	route("GET", "/v2", callMetadata, func(w http.ResponseWriter, _ *http.Request) error {
		m := h.Server.metadata()
		writeJSON(w, http.StatusOK, map[string]any{"name": m.GetName(), "version": m.GetVersion(), "extensions": m.GetExtensions()})
		return nil
	})
	for _, model := range []string{"/v2/models/{model}", "/v2/models/{model}/versions/{version}"} {
		route("GET", model, callModelMetadata, h.modelMetadata)
		route("GET", model+"/ready", callModelReady, h.modelReady)
		route("POST", model+"/infer", callInfer, h.infer)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusNotFound, problem{"there is nothing at " + r.URL.Path + ": docs/api.md lists the calls of the Open Inference Protocol"})
	})
	return mux
}

// readyCode is 4xx where not ready, as the protocol says.
func readyCode(ready bool) int {
	if ready {
		return http.StatusOK
	}
	return http.StatusBadRequest
}

func (h *Handler) modelReady(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("model")
	_, err := h.Server.contract(name, r.PathValue("version"))
	if status.Code(err) == codes.NotFound {
		return err
	}
	ready := err == nil && h.Server.ready()
	writeJSON(w, readyCode(ready), map[string]any{"name": name, "ready": ready})
	return nil
}

type jsonMetadata struct {
	Name     string       `json:"name"`
	Versions []string     `json:"versions"`
	Platform string       `json:"platform"`
	Inputs   []jsonTensor `json:"inputs"`
	Outputs  []jsonTensor `json:"outputs"`
}

type jsonTensor struct {
	Name       string         `json:"name"`
	Datatype   string         `json:"datatype"`
	Shape      []int64        `json:"shape"`
	Parameters map[string]any `json:"parameters,omitempty"`
	// Data is absent where the elements are bytes behind the JSON.
	Data json.RawMessage `json:"data,omitempty"`
}

func (h *Handler) modelMetadata(w http.ResponseWriter, r *http.Request) error {
	m, err := h.Server.modelMetadata(r.PathValue("model"), r.PathValue("version"))
	if err != nil {
		return err
	}
	tensors := func(list []*pb.ModelMetadataResponse_TensorMetadata) []jsonTensor {
		var all []jsonTensor
		for _, t := range list {
			all = append(all, jsonTensor{Name: t.GetName(), Datatype: t.GetDatatype(), Shape: t.GetShape()})
		}
		return all
	}
	writeJSON(w, http.StatusOK, jsonMetadata{m.GetName(), m.GetVersions(), m.GetPlatform(), tensors(m.GetInputs()), tensors(m.GetOutputs())})
	return nil
}

func (h *Handler) infer(w http.ResponseWriter, r *http.Request) error {
	body, done, err := h.Body(w, r)
	if err != nil {
		return bodyError(err)
	}
	defer done()
	q, form, err := fromHTTP(body, r.Header.Get(jsonLength))
	if err != nil {
		return err
	}
	q.model, q.version = r.PathValue("model"), r.PathValue("version")
	ctx, cancel, err := withDeadline(r)
	if err != nil {
		return err
	}
	defer cancel()
	a, err := h.Server.infer(ctx, q)
	if err != nil {
		return err
	}
	a.http(w, form)
	return nil
}

// tooLarge is a body above the limit, which HTTP has a code of its own for.
type tooLarge struct{ limit int64 }

func (e *tooLarge) Error() string {
	return fmt.Sprintf("body: is larger than %d bytes: send several requests", e.limit)
}

// GRPCStatus is what gRPC says of a message that is too large.
func (e *tooLarge) GRPCStatus() *status.Status { return status.New(codes.ResourceExhausted, e.Error()) }

func bodyError(err error) error {
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &tooLarge{large.Limit}
	}
	switch {
	case status.Code(err) != codes.Unknown:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fault("body", "ended before it was complete")
	default:
		return fault("body", "%s", err)
	}
}

type problem struct {
	Error string `json:"error"`
}

// fail answers with an error in the protocol's form.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	s, code := status.Convert(err), 0
	if _, large := errors.AsType[*tooLarge](err); large {
		code = http.StatusRequestEntityTooLarge
	}
	for _, detail := range s.Details() {
		if d, ok := detail.(*errdetails.RetryInfo); ok {
			w.Header().Set("Retry-After", strconv.Itoa(int((d.GetRetryDelay().AsDuration()+time.Second-1)/time.Second)))
		}
	}
	if s.Code() == codes.Internal || s.Code() == codes.Unknown {
		h.Log.Error("call failed", "method", r.Method+" "+r.URL.Path, "error", err)
	}
	writeJSON(w, cmp.Or(code, runtime.HTTPStatusFromCode(s.Code())), problem{s.Message()})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

type jsonRequest struct {
	ID         string         `json:"id"`
	Parameters map[string]any `json:"parameters"`
	Inputs     []jsonTensor   `json:"inputs"`
	Outputs    []struct {
		Name       string         `json:"name"`
		Parameters map[string]any `json:"parameters"`
	} `json:"outputs"`
}

// form is how an answer is to look.
type form struct {
	id     string
	binary bool
}

// fromHTTP reads a body. length is the header that says how much of it is JSON; all of it is
// where the header is not there.
func fromHTTP(body []byte, length string) (*question, form, error) {
	rest := []byte(nil)
	if length != "" {
		n, err := strconv.ParseUint(length, 10, 63)
		if err != nil || n > uint64(len(body)) {
			return nil, form{}, fault(jsonLength, "is %.40q, which is no part of the %d bytes of the body", length, len(body))
		}
		body, rest = body[:n], body[n:]
	}
	var r jsonRequest
	if err := decodeJSON(body, &r); err != nil {
		return nil, form{}, err
	}
	if err := refuse("parameters", keys(r.Parameters)); err != nil {
		return nil, form{}, err
	}
	f := form{id: r.ID}
	if err := flag(r.Parameters, "binary_data_output", "parameters", &f.binary); err != nil {
		return nil, form{}, err
	}
	q := &question{}
	for i, in := range r.Inputs {
		field := "inputs[" + strconv.Itoa(i) + "]"
		if err := refuse(field+".parameters", keys(in.Parameters)); err != nil {
			return nil, form{}, err
		}
		t := tensor{name: in.Name, datatype: in.Datatype, shape: in.Shape}
		if size, ok := in.Parameters["binary_data_size"]; ok {
			n, ok := size.(float64)
			switch {
			case !ok || n < 0 || n != float64(int64(n)):
				return nil, form{}, fault(field+".parameters.binary_data_size", "must be a number of bytes")
			case length == "":
				return nil, form{}, fault(field+".parameters.binary_data_size", "needs the header %s", jsonLength)
			case in.Data != nil:
				return nil, form{}, fault(field+".data", "stands beside binary_data_size")
			case n > float64(len(rest)):
				return nil, form{}, fault(field+".parameters.binary_data_size", "is %.0f, and %d bytes are left of the body", n, len(rest))
			}
			raw := rest[:int(n)]
			rest = rest[int(n):]
			t.values = func(count int) ([]float32, error) { return fromRaw(raw, count) }
		} else {
			t.values = func(count int) ([]float32, error) { return fromJSON(in.Data, in.Shape, count) }
		}
		q.inputs = append(q.inputs, t)
	}
	if len(rest) > 0 {
		return nil, form{}, fault("body", "has %d bytes behind the JSON that belong to no input", len(rest))
	}
	for i, out := range r.Outputs {
		field := "outputs[" + strconv.Itoa(i) + "].parameters"
		if err := refuse(field, keys(out.Parameters)); err != nil {
			return nil, form{}, err
		}
		if err := flag(out.Parameters, "binary_data", field, &f.binary); err != nil {
			return nil, form{}, err
		}
		q.outputs = append(q.outputs, out.Name)
	}
	return q, f, nil
}

// flag sets into from a parameter, where it is there.
func flag(parameters map[string]any, name, field string, into *bool) error {
	v, ok := parameters[name]
	if !ok {
		return nil
	}
	if *into, ok = v.(bool); !ok {
		return fault(field+"."+name, "must be true or false")
	}
	return nil
}

// decodeJSON reads one value, and says where it is not what it should be.
func decodeJSON(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	var (
		syntax *json.SyntaxError
		kind   *json.UnmarshalTypeError
	)
	switch {
	case err == nil:
		return nil
	case len(bytes.TrimSpace(body)) == 0:
		return fault("body", "is empty")
	case errors.As(err, &kind) && kind.Field != "":
		return fault(kind.Field, "must not be a %s", kind.Value)
	case errors.As(err, &syntax):
		return fault("body", "is no JSON: %s, at byte %d", syntax, syntax.Offset)
	default:
		return fault("body", "is not a request: %s", err)
	}
}

// http writes the answer.
func (a *answer) http(w http.ResponseWriter, f form) {
	name, datatype, shape := a.output()
	out := jsonTensor{Name: name, Datatype: datatype, Shape: shape}
	var raw []byte
	if f.binary {
		raw = a.raw()
		out.Parameters = map[string]any{"binary_data_size": len(raw)}
	} else {
		out.Data = toJSON(a.values)
	}
	text, err := json.Marshal(struct {
		Model   string       `json:"model_name"`
		Version string       `json:"model_version"`
		ID      string       `json:"id,omitempty"`
		Outputs []jsonTensor `json:"outputs"`
	}{a.contract.Name, a.contract.VersionString(), f.id, []jsonTensor{out}})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	if f.binary {
		header.Set("Content-Type", "application/octet-stream")
		header.Set(jsonLength, strconv.Itoa(len(text)))
	}
	header.Set("Content-Length", strconv.Itoa(len(text)+len(raw)))
	// The client may be gone.
	if _, err := w.Write(text); err == nil && len(raw) > 0 {
		_, _ = w.Write(raw)
	}
}
