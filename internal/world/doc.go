// Package world runs a test in a machine of its own.
//
//	func TestMain(m *testing.M) { world.Main(m) }
//
//	func TestUp(t *testing.T) {
//		world.Run(t, func(t *testing.T, w *world.World) {
//			lab := w.Lab(t)
//			lab.Host.Run(t, "ip", "address")
//		})
//	}
//
// Run starts the test binary once more, for this test alone, in new mount,
// network, process, IPC and UTS namespaces:
//
//	go test ── test binary ─┬─ stage 1: process 1 (internal/machine); prepares mounts, reaps
//	                        │    └─ stage 2: runs the test's function
//	                        └─ … one pair for each test, in parallel
//
// In a world /run, /proc and /sys are new, /etc is a private copy without
// /etc/netns and /etc/wireguard, TMPDIR is private, and the network has nothing
// but lo. Everything in it dies when the test ends, or the process that started
// it, however that comes about. The machine is not touched.
//
// Helpers take the testing.T of the test or subtest that calls them, and fail it
// when they cannot do their work.
package world
