# A real Kubernetes on this machine: hack/cluster/cluster --help. Included by the Makefile.

CLUSTER := hack/cluster/cluster
# The release of Kubernetes that the cluster and the tests' API server are of. Empty: that of hack/cluster/kube.
KUBERNETES ?=

##@ Cluster

.PHONY: cluster-up
cluster-up: ## Start a Kubernetes cluster on this machine (root; WORKERS=2, KUBERNETES=1.30.14)
	@$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## End that cluster and remove all that it made
	@$(CLUSTER) down

.PHONY: kube-binaries
kube-binaries: ## Build the API server and etcd for the tests, once, and print their folder
	@dir=$$(hack/cluster/build.sh kube$(KUBERNETES:%=@%)) && echo "$$dir/bin"

.PHONY: test-cluster
test-cluster: ## Test that cluster: start, use, cut a node's power, end, nothing left (root)
	@hack/cluster/test.sh
