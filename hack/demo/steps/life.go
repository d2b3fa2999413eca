package steps

// Life are the steps of `make e2e` after the demo's: what happens to a cluster
// over the years, and that at its end nothing is left.
func Life() []Step {
	return []Step{otherRegistries, staticPods, newWorker, slowPull, lostProof, wiped, apiDown, powerCut, slowPulled, taintedWorker, verifierAsked,
		plugin, plainRemoved, helmInstalled, publisherMoves, upgrade, helmRemoved}
}

// UserSettings comes before anything of the project is in the cluster.
var UserSettings = Step{"Settings of containerd that users have",
	"the machines have registries of their own set up, one of them for docker.io itself.", userSettings}

var (
	otherRegistries = Step{"Another registry, on a strict node",
		"only the mirrored registries are strict: a pod of another one starts as ever.", pullFromAnother}
	staticPods = Step{"Static pods on a strict node",
		"one of a published image runs; one of an image that is not on the ledger is refused.", staticPodsOnStrict}
	lostProof = Step{"A containerd is started with a list of folders as its config_path",
		"within two minutes the mirror says on which machine containerd does not use it, and that it does when that is mended.", loseProof}
	wiped = Step{"containerd's set-up is wiped",
		"within two minutes it is there again, also when the whole folder was replaced.", wipeSettings}
	apiDown = Step{"The API server is down for 60 seconds",
		"no pull fails meanwhile, and the operator goes on where it was.", loseAPIServer}
	powerCut = Step{"A worker's power is cut, and comes back",
		"the others pull on; the worker comes up with its mirror, and pulls again.", cutPower}
	newWorker = Step{"A worker joins",
		"it gets its mirror, containerd's set-up and the images without anybody's help.", joinWorker}
	slowPull = Step{"A mirror behind a slow link",
		"it starts like any other, and a pod asks it for a layer over 100 MB.", startSlowPull}
	slowPulled = Step{"The layer has come over the slow link",
		"a pull that takes minutes ends as any other, whatever happened meanwhile.", awaitSlowPull}
	taintedWorker = Step{"A worker joins with taints, and with containerd as it comes",
		"it gets its mirror, is named with what mends it, and runs no pods of others before it is proven.", joinTainted}
	verifierAsked = Step{"The image verifier",
		"containerd refuses by it what is not on the ledger, and where it no longer asks, status says so.", verifyImages}
	plugin = Step{"kubectl pyrsia",
		"the log is asked through the API server, and a proof is checked on this machine.", askByKubectl}
	plainRemoved = Step{"What kubectl apply -k installed is removed",
		"containerd's settings on every worker are byte for byte the user's, and nothing is left but the signing key and the volume.", removePlain}
	helmInstalled = Step{"The operator, by Helm",
		"the chart brings the same up, with mirrors on every worker.", installByHelm}
	publisherMoves = Step{"The publisher moves to another machine with its volume",
		"it has the same key and the same ledger there, and goes on with it.", movePublisher}
	upgrade = Step{"Operator and nodes are upgraded while images are pulled",
		"not one pull fails while every pod of the project is replaced.", upgradeAll}
	helmRemoved = Step{"What Helm installed is removed",
		"nothing is left but the CRDs and what users keep.", removeHelm}
)
