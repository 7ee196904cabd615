// Package netnsx opens, makes, enters and removes network namespaces.
//
// It is the only package of this module that locks threads or calls setns(2).
// It knows namespaces; it does not know what is done inside them.
//
// A network namespace belongs to a thread, and the Go runtime moves goroutines
// between threads. So there are two ways in, and no third:
//
//	Do     a fresh goroutine locks a thread, enters, calls, goes back, unlocks.
//	       If going back fails the thread is not unlocked: it dies with its
//	       goroutine, and no other goroutine ever runs in the wrong place.
//	Enter  the calling goroutine's thread moves for good and is never unlocked:
//	       it dies when that goroutine ends.
//
// Goroutines started inside Do or after Enter run on other threads, outside the
// namespace; so do name lookups and dual-stack dials of package net. Inside,
// dial addresses, never names. A socket stays in the namespace it was made in,
// and may be used from any thread afterwards.
//
// The main goroutine must not call Enter: the main thread cannot be discarded,
// and /proc/self/ns/net is its namespace. So that no other goroutine runs there,
// this package pins the main goroutine of every program that imports it.
package netnsx

import "runtime"

// Without this a goroutine that ends with its thread locked may be on the main
// thread, which then does not die but stays where it is for ever.
func init() { runtime.LockOSThread() }
