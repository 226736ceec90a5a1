// Footfall is the command line of Footfall: it starts a node, feeds it, and asks it about
// customers, shards and models. It links no TensorFlow; `footfall node` runs the binary
// footfall-node, which does.
//
// Every command answers --help, takes --output table or json, and ends with 0 where it did
// what it was asked, 1 where it failed, 2 where it was called wrongly. An error is one line
// that says what to do.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, newApp(os.Stdin, os.Stdout, os.Stderr, os.Getenv), os.Args[1:])
	stop()
	os.Exit(code)
}
