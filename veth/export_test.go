package veth

// OnOldKernel returns options for a pair as kernels before Linux 6.17 have it.
func OnOldKernel(o Options) Options {
	o.oldKernel = true
	return o
}
