package steps

// All are the steps of the demo, in order. On Docker Hub those steps are left
// out that need images of the demo's own.
func All(upstream string) []Step {
	if upstream == DockerHub {
		return []Step{cluster, images, operator, samples, publication, canaries, pull, unpublished, corrupted, proof}
	}
	return []Step{cluster, images, registry, operator, samples, publication, canaries, gone, pull, pullDebian, pullLarge, unpublished, moved, corrupted, proof}
}

// Install are the steps after which the operator runs and nothing is declared.
func Install() []Step { return []Step{cluster, images, registry, operator} }

var (
	cluster = Step{"A Kubernetes cluster on this machine",
		"one control plane and two workers run, each with its own containerd and kubelet.", startCluster}
	images = Step{"The images of operator and node",
		"they are built from this source without a container engine.", loadImages}
	registry = Step{"An upstream registry",
		"a real registry holds OCI indexes, a Docker manifest list, a Debian system, a layer over 100 MB and a tag that will move.", startUpstream}
	operator = Step{"The operator",
		"it runs from plain manifests, as on any cluster.", deployOperator}
	samples = Step{"A publisher, mirrors, a set of images",
		"three small objects are all that a user writes.", applySamples}
	publication = Step{"Publication",
		"the images are copied, recorded on the signed ledger, verified by the operator and known to every mirror.", awaitPublished}
	canaries = Step{"containerd proves that it asks the mirrors",
		"on every machine it has pulled an image that it can get from this machine's mirror alone.", showCanaries}
	gone = Step{"The upstream changes a tag, then is gone",
		"whatever is pulled from now on comes from the Pyrsia network.", loseUpstream}
	pull = Step{"A pod from a verified image",
		"containerd gets busybox through the mirror alone, with the digest that is on the ledger.", pullThroughMirror}
	pullDebian = Step{"A Debian system from the network",
		"a root file system that debootstrap made is published, pulled and run as it is.", runDebian}
	pullLarge = Step{"A large image on both workers at once",
		"layers over 100 MB go from node to node, verified.", pullBig}
	unpublished = Step{"Refused: an image that is not on the ledger",
		"what nobody published cannot be pulled.", refuseUnpublished}
	moved = Step{"Refused: the tag that moved upstream",
		"the pod gets the published digest, not the one that the tag was moved to.", refuseMoved}
	corrupted = Step{"Refused: a corrupted layer",
		"damaged bytes are healed from another peer or refused, never served.", healCorrupted}
	proof = Step{"A proof that needs no trust in this cluster",
		"an Artifact holds all that public libraries need to verify it offline, against the publisher's key alone.", proveOffline}
)
