#!/usr/bin/env bash
# Kubernetes: a ValidatingAdmissionPolicy whose params are missing blocks also what its matchConditions exclude.
#
# The good guess: matchConditions decide first whether a request concerns the policy at all; params are looked for only for what is left.
# So one may exclude, by a condition, the very component that is to write the params, and a binding with
# parameterNotFoundAction: Deny fails closed for all others and nobody else.
#
# What really happens: the params of a binding are collected before any condition is evaluated. While they are missing, each request that
# matchConstraints select is denied ("no params found for policy binding with `Deny` parameterNotFoundAction"), also under a
# condition that is `false` for everything. Only matchConstraints and the binding's matchResources narrow it. Whoever must be able to
# write while the params are missing has to be excluded there (by resource, operation, namespace or labels), and can't be by user name.
#
# Shown with a policy whose only condition is `false`, so that it concerns nothing, on the creation of Secrets; the control is the same
# request after the params were created.
#
# Versions: Kubernetes 1.37.2 (built from its module), etcd 3.7.0, Go 1.26. Date: 2026-11-27. The first build takes some ten minutes.
set -euo pipefail

dir=$(mktemp -d)
trap 'kill -9 $(jobs -p) 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
cd "$dir"
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -mod=mod" GOWORK=off
mkdir apiserver etcd
cat >apiserver/main.go <<'GO'
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
GO
cat >etcd/main.go <<'GO'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
GO
cat >go.mod <<'MOD'
module finding

go 1.26.0

require (
	go.etcd.io/etcd/server/v3 v3.7.0
	k8s.io/component-base v0.37.2
	k8s.io/kubernetes v1.37.2
)
MOD
# The module of Kubernetes asks for its staging modules as v0.0.0 and replaces them by its own folders.
for m in $(go mod download -json k8s.io/kubernetes@v1.37.2 | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p' | xargs sed -n 's|^\t\(k8s.io/[a-z0-9-]*\) => ./staging.*|\1|p'); do
	go mod edit -replace "$m=$m@v0.37.2"
done
go mod tidy >tidy.log 2>&1 || { cat tidy.log; exit 1; }
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
go build -trimpath -ldflags "-s -w" -o apiserver/apiserver ./apiserver
go build -trimpath -ldflags "-s -w" -o etcd/etcd ./etcd

port() { # a port that is free now
	local p
	while p=$((20000 + RANDOM % 10000)); do
		(exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return; }
	done
}
etcd=$(port) peer=$(port) api=$(port)
etcd/etcd --data-dir data --listen-client-urls "http://127.0.0.1:$etcd" --advertise-client-urls "http://127.0.0.1:$etcd" \
	--listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
	--initial-cluster "default=http://127.0.0.1:$peer" >etcd.log 2>&1 &
openssl genrsa -out sa.key 2048 2>/dev/null
echo 'token,admin,admin,system:masters' >tokens.csv
apiserver/apiserver --etcd-servers "http://127.0.0.1:$etcd" --secure-port "$api" --bind-address 127.0.0.1 --cert-dir certs \
	--service-account-issuer https://finding.example --service-account-key-file sa.key --service-account-signing-key-file sa.key \
	--token-auth-file tokens.csv --authorization-mode RBAC --service-cluster-ip-range 10.0.0.0/24 >api.log 2>&1 &

call() { # method path: sends standard input, prints the answer
	curl -sk -X "$1" -H 'Authorization: Bearer token' -H 'Content-Type: application/yaml' --data-binary @- "https://127.0.0.1:$api$2"
}
until [ "$(call GET /readyz </dev/null)" = ok ]; do
	kill -0 %1 %2 || { tail api.log etcd.log; exit 1; }
	((SECONDS < 1800)) || { echo "the API server did not become ready"; exit 1; }
	sleep 1
done

policies=/apis/admissionregistration.k8s.io/v1
call POST $policies/validatingadmissionpolicies >/dev/null <<'YAML'
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: nothing}
spec:
  failurePolicy: Fail
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [secrets]}
  matchConditions:
  - {name: concerns-nothing, expression: "false"}
  validations:
  - {expression: "true"}
YAML
call POST $policies/validatingadmissionpolicybindings >/dev/null <<'YAML'
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: nothing}
spec:
  policyName: nothing
  paramRef: {name: params, namespace: default, parameterNotFoundAction: Deny}
  validationActions: [Deny]
YAML

create() { # the message of a refusal, or "created"; nothing is kept
	echo '{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "any"}}' |
		call POST '/api/v1/namespaces/default/secrets?dryRun=All' |
		sed -n 's/^  "message": "\(.*\)",$/\1/; t refused; $ {s/.*/created/p}; d; : refused {s/\\"/"/g; p; q}'
}
wanted() { # what is created must be answered with $2 at last: a policy takes a moment to count
	local answer start=$SECONDS
	until answer=$(create) && [[ $answer == *"$2"* ]]; do
		((SECONDS - start < 60)) || { echo "FAIL: $1: $answer"; exit 1; }
		sleep 0.5
	done
	echo "$1: $answer"
}
echo "Kubernetes $version"
wanted "the params are missing, and the condition excludes everything" "no params found for policy binding with"
call POST /api/v1/namespaces/default/configmaps >/dev/null <<'YAML'
{apiVersion: v1, kind: ConfigMap, metadata: {name: params}}
YAML
wanted "the params are there" "created"

# Seen:
# Kubernetes v1.37.2
# the params are missing, and the condition excludes everything: secrets "any" is forbidden: ValidatingAdmissionPolicy 'nothing' with
#   binding 'nothing' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction
# the params are there: created
