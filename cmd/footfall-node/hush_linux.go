package main

// #cgo LDFLAGS: -ldl
// void footfall_unhush(void);
import "C"

// What TensorFlow's library says of itself, while it is loaded and with every model, is not
// for whoever asked for --help or reads a node's log: see hush_linux.c.
func init() { C.footfall_unhush() }
