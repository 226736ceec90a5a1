package tensorflow

/*
#cgo LDFLAGS: -ltensorflow
#include "tensorflow/c/c_api.h"

static void footfall_delete_tensor(void *t) { TF_DeleteTensor((TF_Tensor *)t); }
*/
import "C"

import (
	"fmt"
	"io"
	"reflect"
	"runtime"
	"unsafe"

	tf "github.com/galeone/tensorflow/tensorflow/go"
)

// tensorHandle is where the binding keeps a tensor's C pointer. The binding frees a tensor
// only when the collector finds it, and the collector does not know of its megabytes: at
// full speed gigabytes would wait for a collection that has no reason to come. So they are
// freed here, by the pointer, whose place is looked up by name.
var tensorHandle = findHandle[tf.Tensor]("c")

// handle is the place of a pointer within a type of the binding.
type handle struct {
	offset uintptr
	err    error
}

func findHandle[T any](name string) (h handle) {
	t := reflect.TypeFor[T]()
	f, ok := t.FieldByName(name)
	if !ok || f.Type.Kind() != reflect.Pointer {
		h.err = fmt.Errorf("%v has no pointer named %s: this package needs the versions that go.mod names", t, name)
	}
	h.offset = f.Offset
	return h
}

// at returns where the pointer is in the value that p points to, of returns the pointer.
func (h handle) at(p unsafe.Pointer) *unsafe.Pointer {
	return (*unsafe.Pointer)(unsafe.Add(p, h.offset))
}

func (h handle) of(p unsafe.Pointer) unsafe.Pointer { return *h.at(p) }

// free deletes a tensor that nobody uses any more.
func free(t *tf.Tensor) {
	runtime.SetFinalizer(t, nil)
	p := tensorHandle.at(unsafe.Pointer(t))
	C.footfall_delete_tensor(*p)
	*p = nil
}

// bytesOf views values as the bytes they are made of.
func bytesOf(values []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), 4*len(values))
}

// pieceReader reads pieces one after the other, as the bytes of a tensor.
type pieceReader struct {
	pieces [][]float32
	// offset is that in bytes within the first piece.
	offset int
}

func (r *pieceReader) Read(p []byte) (n int, err error) {
	for len(r.pieces) > 0 && n < len(p) {
		bytes := bytesOf(r.pieces[0])
		k := copy(p[n:], bytes[r.offset:])
		n, r.offset = n+k, r.offset+k
		if r.offset == len(bytes) {
			r.pieces, r.offset = r.pieces[1:], 0
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// write copies a tensor of the library with one value per row to out.
func write(tensor unsafe.Pointer, out []float32) error {
	t := (*C.TF_Tensor)(tensor)
	shape := make([]int64, max(C.TF_NumDims(t), 0))
	for i := range shape {
		shape[i] = int64(C.TF_Dim(t, C.int(i)))
	}
	if len(shape) < 1 || len(shape) > 2 || shape[0] != int64(len(out)) || len(shape) == 2 && shape[1] != 1 {
		return fmt.Errorf("the model answered a tensor of shape %v to %d rows", shape, len(out))
	}
	p := unsafe.Slice((*byte)(C.TF_TensorData(t)), C.TF_TensorByteSize(t))
	switch kind := tf.DataType(C.TF_TensorType(t)); kind {
	case tf.Float:
		copy(bytesOf(out), p)
	case tf.Int32:
		convert[int32](out, p)
	case tf.Int64:
		convert[int64](out, p)
	default:
		return fmt.Errorf("the model answered values of type %d", kind)
	}
	return nil
}

// convert writes whole numbers, which the library has aligned, as float32.
func convert[T int32 | int64](out []float32, p []byte) {
	size := int(unsafe.Sizeof(T(0)))
	for i, v := range unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(p))), min(len(p)/size, len(out))) {
		out[i] = float32(v)
	}
}
