#!/bin/bash
# test.sh: starts a cluster, uses it, cuts a node's power, ends it, and checks that nothing is left.
# All of that happens in namespaces of its own, so it may run beside other clusters, what others do
# on this machine does not disturb it, and it leaves nothing behind even when it is interrupted.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export ID=ctest NET=10.97.0 POD=10.242 FAMILIES=ipv4
for part in settings snapshot; do
	# shellcheck source=/dev/null
	. "$HERE/$part.sh"
done
cluster=$HERE/cluster
# curl asks nodes and pods on this machine.
export no_proxy="*"

if [ "${1:-}" != inside ]; then
	"$cluster" down
	# What needs the network comes first, for there is none inside.
	"$HERE/packages.sh"
	for part in "kube${KUBERNETES:+@$KUBERNETES}" containerd dns; do "$HERE/build.sh" "$part" >/dev/null; done
	DEBIAN=$("$HERE/debian.sh")
	export DEBIAN
	code=0
	unshare --mount --mount-proc --net --pid --fork --kill-child --propagation private \
		"$HERE/test.sh" inside || code=$?
	# Control groups and files know no namespaces: a test that failed may have left some.
	"$cluster" down
	exit $code
fi

T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
ip link set lo up
snapshot "$T/before"

# ok NAME PATTERN COMMAND...: the command's output contains the pattern, within some seconds, because
# kube-proxy and DNS follow a change a moment later.
ok() {
	local name=$1 pattern=$2 out='' end=$((SECONDS + 20))
	until out=$("${@:3}" 2>&1) && grep -qE "$pattern" <<<"$out"; do
		((SECONDS < end)) || {
			kubectl get pods -A -o wide >&2
			kubectl events -A >&2
			fail "FAILED: $name: expected \"$pattern\", got: $out"
		}
		sleep 0.5
	done
	say "ok: $name"
}

serve_registry() {
	cat >"$T/registry.yml" <<-EOT
		version: 0.1
		storage: {filesystem: {rootdirectory: $T/registry}}
		http: {addr: "$CLUSTER_HOST_IP:5000"}
	EOT
	"$DEBIAN/docker-registry" serve "$T/registry.yml" >"$T/registry.log" 2>&1 &
	registry=$!
}

deploy() {
	local dns w1=("$cluster" exec w1 ctr -n k8s.io images)
	dns=$("$HERE/build.sh" dns)
	"$dns/bin/mkimage" "$DEBIAN/busybox" cluster.local/busybox:1 "$T/busybox.tar"
	"$cluster" load "$T/busybox.tar"
	ok "a node has the image" "$CLUSTER_HOST_IP" "${w1[@]}" tag cluster.local/busybox:1 "$CLUSTER_HOST_IP:5000/busybox:2"
	ok "a node reaches the host" . "${w1[@]}" push --plain-http "$CLUSTER_HOST_IP:5000/busybox:2"
	sed "s/HOST_IP/$CLUSTER_HOST_IP/" "$HERE/testdata/pods.yaml" | kubectl apply -f - >/dev/null
	kubectl rollout status statefulset/web --timeout=60s >/dev/null
	kubectl rollout status daemonset/relay --timeout=60s >/dev/null
}

"$cluster" up
eval "$("$cluster" env)"
ok "up again does nothing" "already up" "$cluster" up
ok "three nodes Ready" "condition met" kubectl wait --for=condition=Ready node cp w1 w2
serve_registry
deploy
ok "a loaded image needs no pull" "already present" kubectl get events --field-selector involvedObject.name=web-0
ok "the host reaches a pod" start curl -sSm3 "http://$(kubectl get pod web-0 -o jsonpath='{.status.podIP}'):8080/starts"
pod=$(kubectl get pod -l app=relay -o jsonpath='{.items[0].metadata.name}')
ip=$(kubectl get service web -o jsonpath='{.spec.clusterIP}')
# A static busybox's wget crashes without the C library's files: hence nslookup and nc.
ok "DNS" "Address: $ip" kubectl exec "$pod" -- /busybox nslookup web.default.svc.cluster.local
ok "ClusterIP" start kubectl exec "$pod" -- \
	/busybox sh -c "printf 'GET /starts HTTP/1.0\r\n\r\n' | /busybox nc -w 3 $ip 80"
ok "a claim is bound" Bound kubectl get pvc data-web-0
for n in w1 w2; do
	ok "a hostPort on 127.0.0.1 of $n, and pods reach the host" busybox "$cluster" exec "$n" curl -sSm3 http://127.0.0.1:5001/v2/_catalog
done
ok "a hostPort on 127.0.0.1 is on no other address" "Failed to connect" \
	sh -c "! $cluster exec w1 curl -sSm3 http://$NET.11:5001/v2/ 2>&1"
kubectl apply -f "$HERE/testdata/pulled.yaml" >/dev/null
ok "containerd pulls through it" "condition met" kubectl wait --for=condition=Ready pod/pulled --timeout=10s

# w2 has loaded and pulled the same image: its pods must still start without a pull.
"$cluster" kill w2
ok "a killed node is gone" "does not run" sh -c "$cluster exec w2 true 2>&1 || true"
"$cluster" start w2
ok "its pods start again, with their volume" "^2$" \
	sh -c "curl -sfm3 http://\$(kubectl get pod web-0 -o jsonpath='{.status.podIP}'):8080/starts | wc -l"
kubectl rollout status daemonset/relay --timeout=60s >/dev/null
ok "the hostPort is back" busybox "$cluster" exec w2 curl -sSm3 http://127.0.0.1:5001/v2/_catalog
"$cluster" upgrade cp # to what it is already
ok "the control plane keeps its state" Bound kubectl get pvc data-web-0
"$cluster" kill w2
"$cluster" up
ok "up starts afresh when a node is dead" "No resources found" kubectl get pvc
mkdir -p "$T/etc/containerd"
echo "this machine's own" >"$T/etc/containerd/note"
TAINTS=example.com/a=b:NoSchedule,example.com/c=:NoExecute ETC=$T/etc STOCK=1 "$cluster" add "$T/busybox.tar"
ok "a worker joins with taints" "^example.com/a=b:NoSchedule example.com/c=:NoExecute " \
	kubectl get node w3 -o jsonpath='{range .spec.taints[*]}{.key}={.value}:{.effect} {end}'
ok "it has the images that it was given" cluster.local/busybox:1 "$cluster" exec w3 ctr -n k8s.io images ls
ok "it has the files that it was given" "this machine's own" "$cluster" exec w3 cat /etc/containerd/note
ok "its containerd's config_path is not set" "" sh -c "! $cluster exec w3 grep config_path /etc/containerd/config.toml"

"$cluster" down
"$cluster" down
kill "$registry"
wait "$registry" 2>/dev/null || true
snapshot "$T/after"
same_snapshots "$T/before" "$T/after" || fail "FAILED: something is left of the cluster"
say "ok: nothing is left"
