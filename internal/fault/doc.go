// Package fault makes system calls of a program fail, or kills it at one, to see
// what it leaves behind.
//
// The program installs a filter that asks before each call which changes
// something outside of it (seccomp_unotify(2)). Its children inherit the filter.
// The test answers: go on, or fail with an error that may come about without
// anybody's fault.
//
//	program ── call ──► kernel ── asks ──► Fault.Watch
//	        ◄─ done, or failed ◄── go on, or fail ┘
package fault
