#!/bin/sh
# Writes everything that is generated from api/, the RBAC markers and the
# chart. `make verify` runs it and fails on a difference.
#   generate.sh code        deepcopy functions, docs/api.md
#   generate.sh manifests   CRDs, roles, docs/permissions.md, the chart's copies and README, install.yaml, startup-taint.yaml
set -eu
cd "$(dirname "$0")/.."

chart=charts/pyrsia-operator

tool() { go tool -modfile=hack/tools.mod "$@"; }

code() {
	tool controller-gen object paths=./api/...
	tool crd-ref-docs --source-path=api/v1alpha1 --config=hack/apidocs/config.yaml --templates-dir=hack/apidocs \
		--renderer=markdown --log-level=ERROR --output-path=docs/api.md
}

manifests() {
	tool controller-gen crd paths=./api/... output:crd:dir=config/crd
	tool controller-gen rbac:roleName=pyrsia-operator paths=./controllers/...\;./cmd/pyrsia-operator output:rbac:dir=config/rbac

	go run ./hack/permissions <config/rbac/role.yaml >docs/permissions.md.tmp
	mv docs/permissions.md.tmp docs/permissions.md

	rm -rf $chart/files
	mkdir -p $chart/files/crds
	cp config/crd/*.yaml $chart/files/crds/
	rules ClusterRole <config/rbac/role.yaml >$chart/files/clusterrole-rules.yaml
	rules Role <config/rbac/role.yaml >$chart/files/role-rules.yaml
	go run ./hack/chartdocs

	{
		echo "# The rendered chart, without the namespace. Written by hack/generate.sh; do not edit."
		tool helm template pyrsia-operator $chart --namespace pyrsia-system
	} >config/default/install.yaml.tmp
	mv config/default/install.yaml.tmp config/default/install.yaml

	{
		echo "# A part of the chart. Written by hack/generate.sh; do not edit."
		tool helm template pyrsia-operator $chart --namespace pyrsia-system --set startupTaint.enabled=true --show-only templates/startup-taint.yaml
	} >config/startup-taint/startup-taint.yaml.tmp
	mv config/startup-taint/startup-taint.yaml.tmp config/startup-taint/startup-taint.yaml
}

# rules prints the rules of the role of kind $1.
rules() {
	awk -v kind="kind: $1" '
		/^---/ { of_kind = 0; in_rules = 0 }
		$0 == kind { of_kind = 1 }
		in_rules
		/^rules:/ && of_kind { in_rules = 1 }'
}

case "${1:-all}" in
code) code ;;
manifests) manifests ;;
all) code && manifests ;;
*) echo "usage: $0 [code|manifests]" >&2 && exit 2 ;;
esac
