package tensorflow

/*
#include <stdlib.h>
#include "tensorflow/c/c_api.h"

// footfall_trace runs a session once, with the options given, and fills metadata.
static void footfall_trace(void *session, const void *options, size_t options_size,
		const TF_Output *inputs, TF_Tensor *const *values, int n,
		TF_Output output, TF_Buffer *metadata, TF_Status *status) {
	TF_Buffer *o = TF_NewBufferFromString(options, options_size);
	TF_Tensor *result = NULL;
	TF_SessionRun((TF_Session *)session, o, inputs, values, n, &output, &result, 1, NULL, 0, metadata, status);
	if (result != NULL) TF_DeleteTensor(result);
	TF_DeleteBuffer(o);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	tf "github.com/galeone/tensorflow/tensorflow/go"
	pb "github.com/galeone/tensorflow/tensorflow/go/core/protobuf/for_core_protos_go_proto"
	tg "github.com/galeone/tfgo"
	"google.golang.org/protobuf/proto"

	"footfall/inference"
)

// The places of pointers that calls of the library need and the binding keeps to itself.
var (
	graphHandle     = findHandle[tf.Graph]("c")
	savedHandle     = findHandle[tg.Model]("saved")
	sessionHandle   = findHandle[tf.Session]("c")
	operationHandle = findHandle[tf.Operation]("c")
)

// Trace runs a session of this package once and returns the operations that ran, by the
// device that each ran on ("CPU:0"), as the library noted them while it ran. It is for
// looking into a session, not for serving.
func Trace(s inference.Session, in inference.Batch) (map[string][]string, error) {
	own, ok := s.(*session)
	if !ok {
		return nil, fmt.Errorf("tensorflow: a session of type %T can't be traced", s)
	}
	ran, err := own.trace(in)
	if err != nil {
		return nil, fmt.Errorf("tensorflow: trace: %w", err)
	}
	return ran, nil
}

func (s *session) trace(in inference.Batch) (map[string][]string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.model == nil {
		return nil, errClosed
	}
	var inputs []C.TF_Output
	var values []*C.TF_Tensor
	for _, p := range s.inputs {
		t, err := p.read(in)
		if err != nil {
			return nil, err
		}
		defer free(t)
		inputs = append(inputs, outputOf(p.tensor))
		values = append(values, (*C.TF_Tensor)(tensorHandle.of(unsafe.Pointer(t))))
	}
	options, err := proto.Marshal(&pb.RunOptions{TraceLevel: pb.RunOptions_FULL_TRACE})
	if err != nil {
		return nil, err
	}
	status, metadata := C.TF_NewStatus(), C.TF_NewBuffer()
	defer C.TF_DeleteStatus(status)
	defer C.TF_DeleteBuffer(metadata)
	saved := (*tf.SavedModel)(savedHandle.of(unsafe.Pointer(s.model)))
	C.footfall_trace(sessionHandle.of(unsafe.Pointer(saved.Session)), unsafe.Pointer(unsafe.SliceData(options)), C.size_t(len(options)),
		unsafe.SliceData(inputs), unsafe.SliceData(values), C.int(len(inputs)), outputOf(s.fetches[0]), metadata, status)
	if C.TF_GetCode(status) != C.TF_OK {
		return nil, errors.New(oneLine(C.GoString(C.TF_Message(status))))
	}
	noted := new(pb.RunMetadata)
	if err := proto.Unmarshal(C.GoBytes(metadata.data, C.int(metadata.length)), noted); err != nil {
		return nil, err
	}
	ran := map[string][]string{}
	for _, d := range noted.GetStepStats().GetDevStats() {
		_, device, _ := strings.Cut(d.GetDevice(), "/device:")
		for _, n := range d.GetNodeStats() {
			ran[device] = append(ran[device], n.GetNodeName())
		}
	}
	return ran, nil
}

func outputOf(o tf.Output) C.TF_Output {
	return C.TF_Output{oper: (*C.TF_Operation)(operationHandle.of(unsafe.Pointer(o.Op))), index: C.int(o.Index)}
}
