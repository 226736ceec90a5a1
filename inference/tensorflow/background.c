#define _GNU_SOURCE
#include "background.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

void footfall_load(footfall_call *c) {
	c->session = TF_LoadSessionFromSavedModel(c->options, NULL, c->folder, &c->tag, 1, c->graph, NULL, c->status);
}

void footfall_run(footfall_call *c) {
	TF_SessionRun(c->session, NULL, c->inputs, c->values, c->n, &c->output, &c->result, 1, NULL, 0, NULL, c->status);
}

void footfall_delete(footfall_call *c) {
	TF_CloseSession(c->session, c->status);
	TF_DeleteSession(c->session, c->status);
	TF_DeleteGraph(c->graph);
}

// yield_to_all has the calling thread give way. With SCHED_IDLE any other thread that wakes takes
// its place at once; but on a busy machine it stands still, so that is only for who may come back
// from it. Others have the last place in the common queue.
static void yield_to_all(int thread) {
	struct sched_param none = {0};
	setpriority(PRIO_PROCESS, thread, 1);
	if (setpriority(PRIO_PROCESS, thread, 0) != 0 || sched_setscheduler(thread, SCHED_IDLE, &none) != 0) {
		setpriority(PRIO_PROCESS, thread, 19);
	}
}

void footfall_hurry(footfall_call *c) {
	struct sched_param none = {0};
	int thread = __atomic_load_n(&c->thread, __ATOMIC_ACQUIRE);
	if (thread != 0) {
		sched_setscheduler(thread, SCHED_OTHER, &none);
	}
}

static void *thread(void *p) {
	footfall_call *c = p;
	int done = c->done; // once that is closed, c is gone
	int self = (int)syscall(SYS_gettid);
	yield_to_all(self);
	__atomic_store_n(&c->thread, self, __ATOMIC_RELEASE);
	c->make(c);
	close(done);
	return NULL;
}

int footfall_start(footfall_call *c) {
	pthread_attr_t a;
	pthread_t t;
	int err = pthread_attr_init(&a);
	if (err != 0) {
		return err;
	}
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&t, &a, thread, c);
	pthread_attr_destroy(&a);
	return err;
}
