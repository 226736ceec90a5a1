//go:build !linux

package local

func removeInterlock(string) {}
