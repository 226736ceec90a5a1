// Standard error is /dev/null from before the constructors of shared libraries run until Go
// does. Only functions of .preinit_array come that early. Faults of the loader itself come
// still earlier, and are seen.

#define _GNU_SOURCE
#include <fcntl.h>
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

void footfall_unhush(void) {
	if (saved >= 0) {
		dup2(saved, STDERR_FILENO);
		close(saved);
		saved = -1;
	}
}
