package control

// The exit status of 'pyrsia containerd install' and 'pyrsia init-data', by which
// the operator tells what keeps a mirror from running, or from setting containerd
// up, on a Kubernetes node.
const (
	// ExitRegistryTaken: another mirror has one of the registries there.
	ExitRegistryTaken = 3
	// ExitPortTaken: the mirror's port does not answer as this mirror.
	ExitPortTaken = 4
	// ExitFolderTaken: the data folder is that of another namespace's mirror.
	ExitFolderTaken = 5
	// ExitSetUpRefused: some of the machine's configuration cannot be
	// preserved, so containerd is not set up.
	ExitSetUpRefused = 6
)
