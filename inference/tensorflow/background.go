package tensorflow

/*
#include <stdlib.h>
#include "background.h"

static void footfall_to_load(footfall_call *c) { c->make = footfall_load; }
static void footfall_to_run(footfall_call *c) { c->make = footfall_run; }
static void footfall_to_delete(footfall_call *c) { c->make = footfall_delete; }
static void footfall_make(footfall_call *c) { c->make(c); }
*/
import "C"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	tf "github.com/galeone/tensorflow/tensorflow/go"
	tg "github.com/galeone/tfgo"

	"footfall/inference"
)

// patience is how long a call gives way to everything else. A machine that is busy for longer is
// not to keep a version from serving, nor others from a lock that the call holds.
const patience = 500 * time.Millisecond

// call is a call of the library that is made here, or in the background: by a thread that gives way
// to all others, as long as that does not take too long. Go waits for that thread as for a file, and has no
// part in it: none of its locks is held by a thread that does not run, and no goroutine's turn is
// taken by one that waits.
type call struct {
	*cCall
	// owned is what goes with the call.
	owned []unsafe.Pointer
}

// cCall is a call as C has it.
type cCall C.footfall_call

func newCall() *call {
	c := &call{cCall: (*cCall)(C.calloc(1, C.sizeof_footfall_call))}
	c.status = C.TF_NewStatus()
	return c
}

// alloc gives memory that is zero and goes with the call.
func (c *call) alloc(n int, size uintptr) unsafe.Pointer {
	p := C.calloc(C.size_t(n), C.size_t(size))
	c.owned = append(c.owned, p)
	return p
}

func (c *call) text(s string) *C.char {
	p := C.CString(s)
	c.owned = append(c.owned, unsafe.Pointer(p))
	return p
}

func (c *call) free() {
	for _, p := range c.owned {
		C.free(p)
	}
	if c.options != nil {
		C.TF_DeleteSessionOptions(c.options)
	}
	if c.result != nil {
		C.TF_DeleteTensor(c.result)
	}
	C.TF_DeleteStatus(c.status)
	C.free(unsafe.Pointer(c.cCall))
}

// make makes the call, and returns what the library says of it.
func (c *call) make(background bool) error {
	if !background {
		c.done = -1
		C.footfall_make((*C.footfall_call)(c.cCall))
	} else if err := c.wait(); err != nil {
		return err
	}
	return c.err()
}

func (c *call) err() error {
	if C.TF_GetCode(c.status) == C.TF_OK {
		return nil
	}
	return errors.New(oneLine(C.GoString(C.TF_Message(c.status))))
}

// wait has a thread make the call. It returns once it is made; an error says that it is not.
func (c *call) wait() error {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return fmt.Errorf("a call in the background: %w", err)
	}
	made := os.NewFile(uintptr(ends[0]), "a call in the background")
	defer made.Close() //nolint:errcheck // nothing was written
	c.done = C.int(ends[1])
	if errno := C.footfall_start((*C.footfall_call)(c.cCall)); errno != 0 {
		return errors.Join(fmt.Errorf("a thread for a call in the background: %w", syscall.Errno(errno)), syscall.Close(ends[1]))
	}
	err := await(made, patience)
	for errors.Is(err, os.ErrDeadlineExceeded) {
		C.footfall_hurry((*C.footfall_call)(c.cCall))
		err = await(made, patience)
	}
	if err != nil {
		// The thread has the call's memory, which can't be given back now.
		panic(fmt.Sprintf("tensorflow: a call in the background can't be waited for: %v", err))
	}
	return nil
}

// await returns once the other end is closed, or the time has passed.
func await(made *os.File, limit time.Duration) error {
	if err := made.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, made)
	return err
}

// openModel has the library load a folder.
func openModel(folder string, config []byte, background bool) (*tg.Model, error) {
	c := newCall()
	defer c.free()
	graph := tf.NewGraph()
	c.graph = (*C.TF_Graph)(graphHandle.of(unsafe.Pointer(graph)))
	c.options = C.TF_NewSessionOptions()
	C.TF_SetConfig(c.options, unsafe.Pointer(unsafe.SliceData(config)), C.size_t(len(config)), c.status)
	if err := c.err(); err != nil {
		return nil, err
	}
	c.folder, c.tag = c.text(folder), c.text(tag)
	C.footfall_to_load((*C.footfall_call)(c.cCall))
	if err := c.make(background); err != nil {
		return nil, err
	}
	session, model := new(tf.Session), new(tg.Model)
	*sessionHandle.at(unsafe.Pointer(session)) = unsafe.Pointer(c.session)
	*savedHandle.at(unsafe.Pointer(model)) = unsafe.Pointer(&tf.SavedModel{Session: session, Graph: graph})
	return model, nil
}

// closeModel gives a model's memory back. The collector would do so in its own time, and does not
// know how much that is.
func closeModel(m *tg.Model, background bool) error {
	saved := (*tf.SavedModel)(savedHandle.of(unsafe.Pointer(m)))
	session, graph := sessionHandle.at(unsafe.Pointer(saved.Session)), graphHandle.at(unsafe.Pointer(saved.Graph))
	c := newCall()
	defer c.free()
	c.session, c.graph = (*C.TF_Session)(*session), (*C.TF_Graph)(*graph)
	runtime.SetFinalizer(saved.Graph, nil)
	*session, *graph = nil, nil
	C.footfall_to_delete((*C.footfall_call)(c.cCall))
	return c.make(background)
}

// runAside is run, in the background.
func (s *session) runAside(in inference.Batch, out []float32) error {
	c := newCall()
	defer c.free()
	saved := (*tf.SavedModel)(savedHandle.of(unsafe.Pointer(s.model)))
	c.session = (*C.TF_Session)(sessionHandle.of(unsafe.Pointer(saved.Session)))
	c.n, c.output = C.int(len(s.inputs)), outputOf(s.fetches[0])
	c.inputs = (*C.TF_Output)(c.alloc(len(s.inputs), C.sizeof_TF_Output))
	c.values = (**C.TF_Tensor)(c.alloc(len(s.inputs), unsafe.Sizeof(uintptr(0))))
	for i, p := range s.inputs {
		t, err := p.read(in)
		if err != nil {
			return err
		}
		defer free(t)
		unsafe.Slice(c.inputs, len(s.inputs))[i] = outputOf(p.tensor)
		unsafe.Slice(c.values, len(s.inputs))[i] = (*C.TF_Tensor)(tensorHandle.of(unsafe.Pointer(t)))
	}
	C.footfall_to_run((*C.footfall_call)(c.cCall))
	if err := c.make(true); err != nil {
		return err
	}
	return write(unsafe.Pointer(c.result), out)
}
