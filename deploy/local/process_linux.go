package local

import "syscall"

// dieWithParent makes the kernel send sig to the child when this process has died without stopping it.
func dieWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }
