package main

// void footfall_unhush(void);
import "C"

// What TensorFlow's library says of itself while it is loaded, before main and at no level
// that could be set, is not for whoever asked for --help: see hush_linux.c.
func init() { C.footfall_unhush() }
