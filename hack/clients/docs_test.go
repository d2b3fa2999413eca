package clients

const docsHead = `# Clients

What real container clients do with a Pyrsia mirror. ` + "`make test-clients`" + ` runs each of them against a publisher, two mirrors and
an upstream registry, and writes this page: each cell is what was seen, and CI fails when it changes. Docker Hub's names lead to a
stand-in that has all the content and counts its requests; where a cell does not say so, not one request went there. Versions of
containerd, both its ways to pull, newer Dockers, BuildKit and others: [platforms.md](platforms.md).

`

const docsTail = `
- *tag, digest, multi-arch, docker list, schema2*: the digest that the client then shows is the one on the ledger.
- *large layer*: 48 MiB, in pieces from the publisher.
- *resume after cut*: the connection is reset in the middle of a layer.
- *image not on the ledger*: Docker Hub has it. The refusal that the client shows names the image, the ledger's size and age, and how to
  publish it. An old containerd shows "403 Forbidden" alone, and the reason is in the node's access log. dockerd takes every refusal by a mirror for a failure of the mirror, and has no setting against that.
- *revoked*: the publisher has withdrawn its digest, under every tag. The refusal names the block and the reason.
- *mirror restarted mid-pull*: it is killed in the middle of a layer and started again. A client that gives up finds the mirror as it was
  on the next try.
- *peer corrupt*: one of the two peers that have the image has a flipped byte in its layer.
- *disk corrupt*: a byte of the layer is flipped on the mirror's own disk; the mirror finds it, puts the file aside and fetches the layer
  again.
- *holders gone*: the image is on the ledger, and both nodes that have it have ended. The answer is 502, within seconds, and its body names who had it;
  HEAD of the tag is answered by the ledger all the same. Clients that show no body of a 5xx say "502 Bad Gateway". Of a layer alone, clients that do
  not name the registry are told 404: after a 5xx dockerd would ask for it again for more than a minute.

While a mirror in a cluster is replaced, its port has requests wait, at most 25 s after it was first missed; containerd would give up after 30 s. From then
on each is refused after a second with 502 and a body that says so, for pulls of other registries may stand behind it in the kubelet's queue.

Over a slow link the first 4 MiB of a layer, which are verified before any of them is handed out, may take longer than clients wait for an answer: they
are answered after 8 s if the layer is on its way, and get its bytes as they are verified.

A mirror whose clients are to go on to the registry is started with ` + "`--mirror-fallback`" + ` (the operator does so for
` + "`spec.mirror.containerd: Fallback`" + `): then "not on the ledger" is 404 for all, and only what is withdrawn is refused with 403. Without it, clients in
fallback go on as well.

## Set-up

| client | to the mirror | no way around it |
| --- | --- | --- |
| containerd 1.6, 2.x | ` + "`pyrsia containerd install`" + ` | its default mode, ` + "`--mode Strict`" + ` |
| dockerd, with the containerd image store (new installations of 29) | ` + "`pyrsia docker install`" + ` | its default mode there, ` + "`--mode Strict`" + ` |
| dockerd, with the graph-driver one | ` + "`pyrsia docker install`" + ` | none; name the mirror: ` + "`docker pull 127.0.0.1:5001/library/alpine:3.20`" + ` |
| podman, skopeo, buildah, CRI-O | ` + "`pyrsia registries install`" + ` | its default mode, ` + "`--mode Strict`" + ` |
| crane | name the mirror: ` + "`crane pull 127.0.0.1:5001/library/alpine:3.20`" + ` | by that name there is none |

` + "`pyrsia docker status`" + ` says which image store a Docker has, and whether it goes by what was set up. ` + "`pyrsia registries status`" + ` finds other files
that lead around the node: of two prefixes these clients take the longer, and of equal ones that in the last file. It finds where ` + "`CONTAINERS_REGISTRIES_CONF`" + ` is set, too: since podman 6 they read no drop-in then.

containerd 2.1 and newer can also have each pull of CRI checked against the ledger, wherever its bytes came from, unless its configuration keeps
it from asking: ` + "`pyrsia image-verifier --help`" + `, and [containerd.md](containerd.md).
It looks at images of the registries in its settings alone: one of ` + "`mirror.gcr.io` or `public.ecr.aws`" + `, which serve copies of Docker Hub's
images, is another registry's, and is let through unless that registry is listed too; then it is refused.
`
