package chaos

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// whose tells which of some processes has the other end of a connection on this machine. gone: it
// has closed it by now.
func whose(c *net.TCPConn, pids map[int]string) (name string, gone bool) {
	inode := inodeOf(hex(c.RemoteAddr()), hex(c.LocalAddr()))
	if inode == "" || inode == "0" {
		return "", true
	}
	for pid, name := range pids {
		dir := filepath.Join("/proc", fmt.Sprint(pid), "fd")
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, f := range files {
			if at, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && at == "socket:["+inode+"]" {
				return name, false
			}
		}
	}
	again := inodeOf(hex(c.RemoteAddr()), hex(c.LocalAddr()))
	return "", again != inode
}

// inodeOf looks a socket up in the kernel's table.
func inodeOf(local, remote string) string {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 9 && f[1] == local && f[2] == remote {
			return f[9]
		}
	}
	return ""
}

// hex is an address as that table has it.
func hex(addr net.Addr) string {
	a := addr.(*net.TCPAddr)
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(a.IP.To4()), a.Port)
}
