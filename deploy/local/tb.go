package local

import "context"

// TB is as much of testing.TB as servers for tests need, so that programs that use this package do not link testing.
type TB interface {
	Helper()
	Context() context.Context
	TempDir() string
	Cleanup(cleanup func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}
