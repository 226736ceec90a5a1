#ifndef FOOTFALL_BACKGROUND_H
#define FOOTFALL_BACKGROUND_H

#include "tensorflow/c/c_api.h"

// A call of the library, which another thread may make. All of it is C's memory: another thread
// may not have any of Go's.
typedef struct footfall_call {
	void (*make)(struct footfall_call *);
	// done is a file that is closed once the call is made; below 0 where nobody waits for that.
	int done;
	// thread is the one that makes the call, 0 until it begins.
	int thread;

	TF_Session *session;
	TF_Status *status;

	// What loading takes beside.
	TF_SessionOptions *options;
	TF_Graph *graph;
	const char *folder;
	const char *tag;

	// What a run takes, and what it gives.
	TF_Output *inputs;
	TF_Tensor **values;
	int n;
	TF_Output output;
	TF_Tensor *result;
} footfall_call;

void footfall_load(footfall_call *c);
void footfall_run(footfall_call *c);
void footfall_delete(footfall_call *c);

// footfall_start has a thread of its own make a call, which gives way to all others. It returns 0,
// or why there is no thread.
int footfall_start(footfall_call *c);

// footfall_hurry has the thread of a call that is not done go on as any other does, where the
// process may have that.
void footfall_hurry(footfall_call *c);

#endif
