// Package userns starts programs in user namespaces, for users who are not root.
//
// In a user namespace of its own a user has every capability over what is made
// there: mount and network namespaces, interfaces, rules. Outside, the user's
// rights are as before.
//
//	the user's process ── fork ──► one thread: setns(user), setns(mount),
//	                               ambient capabilities, execve
//
// A process with more than one thread cannot enter a user namespace, and every
// Go program has more than one. So Start forks with raw system calls, and the
// child enters before it becomes the program, as a child of package syscall
// does when it changes its user. Nobody changes under the calling program.
package userns
