// Standard error is /dev/null from before the constructors of shared libraries run until Go
// does. Only functions of .preinit_array come that early. Faults of the loader itself come
// still earlier, and are seen.
//
// From then on TensorFlow writes errors only, or what TF_CPP_MIN_LOG_LEVEL says: its logging
// library does not read that variable any more, but can be told.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int saved = -1;

static void hush(void) {
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (null < 0) {
		return;
	}
	saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	if (saved >= 0) {
		dup2(null, STDERR_FILENO);
	}
	close(null);
}

__attribute__((section(".preinit_array"), used)) static void (*const hook)(void) = hush;

// absl::SetMinLogLevel as TensorFlow 2.21 exports it. Another version's has another name:
// then its messages are seen, and nothing else is different.
#define SET_MIN_LOG_LEVEL "_ZN4absl12lts_2025081414SetMinLogLevelENS0_18LogSeverityAtLeastE"

void footfall_unhush(void) {
	void (*set_level)(int) = (void (*)(int))dlsym(RTLD_DEFAULT, SET_MIN_LOG_LEVEL);
	if (set_level) {
		const char *level = getenv("TF_CPP_MIN_LOG_LEVEL");
		set_level(level ? atoi(level) : 2);
	}
	if (saved >= 0) {
		dup2(saved, STDERR_FILENO);
		close(saved);
		saved = -1;
	}
}
