package main

import "syscall"

// dieWithParent makes the kernel stop the child in order when this process is killed.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGTERM }
