// Package machine makes a machine out of namespaces, for what must not touch the
// one it runs on: the tests, and wgjail bench.
//
// The program starts itself once more in new mount, network, process, IPC and
// UTS namespaces, as process 1 there, which makes the machine ready, starts the
// program for the third time and reaps what it leaves:
//
//	caller ── process 1: Init.Run ── the program, which does the work
//
// In a machine /run, /proc and /sys are new, /etc is a private copy without
// /etc/netns and /etc/wireguard, and the network has nothing but lo. Everything
// in it dies when the program ends, or the caller, however that comes about.
package machine
